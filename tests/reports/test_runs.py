"""Runs are found, loaded whole, and compared; damage is tolerated where a kill leaves it and named elsewhere."""

import json

import pytest

from litespark.metrics import names
from litespark.reports.runs import FIGURES, compare, differing_keys, find_runs, labels, load_run, load_runs
from litespark.reports.tables import PROBE_DISTURBED, absent
from tests.reports.synthetic_runs import write_run
from tests.reports.test_report import change


def test_a_run_folder_is_loaded_whole(run_folders):
    run = load_run(run_folders / "gpu")
    assert run.record.model.parameters == 1_904_256
    assert run.config["optim"]["lr"] == 1e-3
    assert len(run.metrics) == 100
    assert run.metrics["step"].dtype == run.metrics["tokens"].dtype == "int64"
    assert str(run.metrics["time"].dt.tz) == "UTC"
    assert list(run.series(names.VALIDATION_LOSS).index) == [50 * 8192, 100 * 8192, 150 * 8192, 200 * 8192]
    assert run.series("no/such_metric").empty


def test_rows_of_a_step_become_one_and_steps_done_again_after_a_resume_count_once(tmp_path):
    folder = write_run(tmp_path / "run")
    # killed after step 3, resumed from the checkpoint of step 1 with another log interval
    logged = ((1, 9.0), (2, 8.0), (3, 7.0), (2, 8.5), (4, 6.0))
    rows = [{"step": step, names.PROGRESS_TOKENS: 8 * step, names.TRAIN_LOSS: loss} for step, loss in logged]
    rows.append({"step": 4, names.PROGRESS_TOKENS: 32, names.VALIDATION_LOSS: 5.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = load_run(folder).metrics
    assert list(table["step"]) == [1, 2, 4]
    assert list(table[names.TRAIN_LOSS]) == [9.0, 8.5, 6.0]
    assert list(table[names.VALIDATION_LOSS].dropna()) == [5.0]


def test_a_run_that_died_early_loads_with_what_it_left(run_folders):
    run = load_run(run_folders / "dead")
    assert run.metrics.empty
    assert list(run.metrics.columns) == ["step", "tokens", "time"]
    assert run.config == {}


@pytest.mark.parametrize("rest", ['{"step": 300, "tok', '{"step": 300, "tokens": 1', "\x00\x00"])
def test_a_truncated_last_line_is_ignored(tmp_path, rest):
    folder = write_run(tmp_path / "run")
    whole = load_run(folder).metrics
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(rest)
    assert load_run(folder).metrics.equals(whole)


ROW = '{"step": 3, "progress/tokens": 1'


@pytest.mark.parametrize("line, message", [('{"step": 3, "tok', ".*Invalid JSON"), ("\udcff", ".*Invalid JSON"),
                                           ('{"step": -1, "progress/tokens": 1}', "step: got -1"),
                                           (f'{ROW}, "train/loss": NaN}}', "train/loss: got nan"),
                                           (f'{ROW}, "time": "noon"}}', "time: Invalid isoformat string")])  # fmt: skip
def test_a_corrupt_line_in_the_middle_is_named(tmp_path, line, message):
    folder = write_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_bytes("\n".join([*lines[:2], line, *lines[2:], ""]).encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"line 3: {message}") as caught:
        load_run(folder)
    assert str(path) in str(caught.value)


def test_runs_are_found_in_a_run_a_sweep_and_a_folder_of_both(run_folders):
    assert find_runs([run_folders / "gpu"]) == [run_folders / "gpu"]
    assert [folder.name for folder in find_runs([run_folders / "sweep"])] == ["0", "1", "2", "3", "10"]
    assert len(find_runs([run_folders])) == 8
    found = find_runs([run_folders / "sweep" / "2", run_folders / "sweep"])
    assert [folder.name for folder in found] == ["2", "0", "1", "3", "10"]


def test_a_path_without_runs_is_refused(tmp_path):
    (tmp_path / "comparison.md").write_text("an earlier one")
    assert find_runs([tmp_path / "comparison.md"]) == []
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"got no run at or below it, expected a run.json; name a folder"):
            find_runs([path])
        with pytest.raises(ValueError, match=r"got no run.json in it, expected a run folder; name one like logs"):
            load_run(path)


def test_the_comparison_has_a_row_a_run_and_only_the_settings_that_differ(run_folders):
    table = compare(load_runs([run_folders / "sweep"]))
    assert list(table.columns) == ["run", "optim.lr", "seed", "tokens", *FIGURES, "status"]
    assert list(table["run"]) == ["0", "1", "2", "3", "10"]
    assert list(table["optim.lr"]) == [1e-3, 1e-3, 3e-4, 3e-4, 1e-4]
    assert list(table["seed"]) == [1, 2, 1, 2, 1]
    assert table["joules_per_token"].notna().tolist() == [True, True, True, False, True]
    assert table["tokens_per_second"].tolist() == [32768.0] * 5


def test_a_setting_that_one_run_lacks_differs_and_runs_without_config_do_not_count(tmp_path, run_folders):
    extra = write_run(tmp_path / "extra")
    with (extra / "config.yaml").open("a") as stream:
        stream.write("compile: {mode: fast}\n")
    runs = [load_run(run_folders / "gpu"), load_run(extra), load_run(run_folders / "dead")]
    assert differing_keys(runs) == ["compile.mode"]
    assert compare(runs)["compile.mode"].tolist() == [None, "fast", None]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for day in ("monday", "tuesday"):
        write_run(tmp_path / day / "0", name="tiny")
    write_run(tmp_path / "other")
    assert labels(load_runs([tmp_path])) == ["tiny (monday/0)", "other", "tiny (tuesday/0)"]


def test_a_share_of_the_probe_is_of_the_best_one_and_none_above_it(tmp_path):
    folder = write_run(tmp_path / "busy", gpu=False, steps=40)
    change(folder, throughput={"mfu_measured_peak": None, "measured_peak_flops": 4e9})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in lines if names.MFU_MEASURED_PEAK in row]
    for row, share, peak in zip(rows, (0.8, 3.0, 0.5), (1e9, 4e9, 4e9), strict=False):
        row[names.MFU_MEASURED_PEAK], row[names.MEASURED_PEAK_FLOPS] = share, peak
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    run = load_run(folder)
    assert list(run.series(names.MFU_MEASURED_PEAK))[:2] == pytest.approx([0.2, 0.5])
    assert absent(run)["MFU (C) of the measured peak"] == PROBE_DISTURBED
