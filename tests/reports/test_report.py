"""Reports state every figure of the record with its unit, give a reason for each absent one, and invent nothing."""

import dataclasses
import json
import re
import shutil

import pytest

from litespark.data.contents import write_run_data
from litespark.reports import comparison
from litespark.reports.report import write_comparison, write_report
from litespark.reports.runs import load_runs
from litespark.reports.tables import RANDOM_IDS
from litespark.run.record import RunRecord, SegmentRecord
from tests.data.prepared_manifest import manifest
from tests.reports.synthetic_runs import NO_COUNTER, write_run

pytestmark = pytest.mark.usefixtures("unpainted")


def cells(report: str, what: str) -> list[str]:
    """The row of a table whose first cell is `what`, without that cell."""
    (row,) = [line for line in report.splitlines() if line.startswith(f"| {what} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def section(report: str, title: str) -> str:
    return report.split(f"\n## {title}\n")[1].split("\n## ")[0]


def change(folder, **parts):
    """Write the record of `folder` again with other parts: change(folder, quality={"sample": None}, seed=2)."""
    record = RunRecord.read(folder / "run.json")
    for name, values in parts.items():
        part = getattr(record, name)
        value = dataclasses.replace(part, **values) if isinstance(values, dict) else values
        record = dataclasses.replace(record, **{name: value})
    record.write(folder / "run.json")


@pytest.fixture(scope="module")
def reports(run_folders, tmp_path_factory):
    """The text of the reports of the three kinds of run."""
    texts = {}
    for name in ("gpu", "cpu", "dead"):
        folder = tmp_path_factory.mktemp("reports") / name
        shutil.copytree(run_folders / name, folder)
        path = write_report(folder)
        assert path == folder / "report.md"
        texts[name] = path.read_text()
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", texts[name]):
            assert (folder / picture).stat().st_size > 1000
        assert not list(folder.glob(".*"))
    return texts


NO_PEAK = "no dense peak is known for A CPU, 2 cores; metrics.peak_flops sets one"
SHOWN = {
    ("gpu", "Results"): {
        "validation loss": ["2.649 nats/token", "3.55 nats (57.3 %) below the unigram entropy"],
        "unigram entropy": ["6.200 nats/token"], "bits per byte": ["1.233", "token frequencies alone: 2.885"],
        "tokens/s": ["32.77 k"], "MFU (F)": ["72.5 %"], "HFU (C)": ["86.8 %"], "peak memory": ["61.40 GiB"],
        "MFU (C)": ["65.3 %", "of 989.5 TFLOP/s a device (NVIDIA H200 data sheet, dense bf16)"],
        "energy per token": ["20.91 mJ", "GPU board energy, training steps only"],
    },
    ("gpu", "Energy"): {
        "training steps": ["34.26 kJ", "90.4 %"], "evaluation": ["2.055 kJ"], "checkpoints": ["685.1 J"],
        "idle and start-up": ["900.0 J"], "**all-in**": ["37.90 kJ", "100 %"],
    },
    ("gpu", "Projection"): {
        "time": ["105 d 5 h"], "electricity": ["1,742 kWh", "PUE 1.2"],
        "CO2e": ["794.2 kg", "at 0.38 kg a kWh of the grid"], "cost": ["not projected", "price_per_kwh is not set"],
    },
    ("cpu", "Results"): {
        **{what: ["not measured", NO_PEAK] for what in ("MFU (C)", "MFU (F)", "HFU (C)")},
        **{what: ["not measured", NO_COUNTER] for what in ("energy per token", "all-in energy per token")},
        "peak memory": ["not measured"], "MFU (C) of the measured peak": ["78.6 %"],
    },
    ("cpu", "Projection"): {"electricity": ["not projected", NO_COUNTER]},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "title"), SHOWN)
def test_figures_are_those_of_the_record_and_absent_ones_have_reasons(reports, kind, title):
    shown = section(reports[kind], title)
    for what, expected in SHOWN[kind, title].items():
        assert cells(shown, what)[: len(expected)] == expected, what


def test_what_surrounds_the_tables_is_of_the_record(reports):
    energy = section(reports["gpu"], "Energy")
    assert "NVML total energy counter; all devices in use were read; average power 690.0 W" in energy
    assert "5.808 kWh per billion tokens" in energy
    assert "To 300.0 B tokens" in section(reports["gpu"], "Projection")
    assert section(reports["cpu"], "Energy").strip() == f"Energy was not measured: {NO_COUNTER}."
    absent = section(reports["cpu"], "What was not measured, and why")
    assert "- MFU (C), MFU (F), HFU (C): no dense peak is known" in absent
    assert NO_COUNTER in absent


def test_energy_lost_partial_coverage_random_ids_and_a_loss_above_the_entropy_are_said(tmp_path):
    folder = write_run(tmp_path / "run", entropy=2.0)
    change(
        folder,
        energy={"all_in_joules": 50_000.0, "coverage": 0.5, "reason": "device 1: counter missing"},
        data={"name": "synthetic", "unigram_bits_per_byte": None},
        quality={"bits_per_byte": None, "sample": "```\n# not a heading\n````"},
    )
    report = write_report(folder).read_text()
    energy, absent = section(report, "Energy"), section(report, "What was not measured, and why")
    assert cells(energy, "in no phase (steps lost to a crash)") == ["12.10 kJ", "24.2 %"]
    assert "device 1: counter missing" in energy
    for shown in (energy, absent):
        assert "50.0 % of the devices in use were read" in shown
    assert f"- bits per byte: {RANDOM_IDS}" in absent
    assert cells(report, "validation loss")[1] == "0.649 nats (32.4 %) above the unigram entropy"
    assert section(report, "Sample").startswith("\n`````text\n```\n# not a heading\n````\n`````\n")


def test_a_run_that_measured_nothing_shows_no_measured_number(reports):
    results = section(reports["dead"], "Results")
    values = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in results.strip().splitlines()[2:]}
    # the entropy is a fact of the data, and that no step was skipped was counted
    assert {what for what, value in values.items() if value != "not measured"} == {"unigram entropy", "skipped steps"}
    for said in (
        "**The run failed: out of memory in the first step**",
        "No sample was generated.",
        "Nothing was logged.",
    ):
        assert said in reports["dead"]
    for report in reports.values():
        assert not re.search(r"\b(None|nan|NaN|inf)\b", report)


def test_loss_is_beside_speed(reports):
    rows = section(reports["gpu"], "Loss beside speed").split("\n![")[0].strip().splitlines()
    costs = "tokens/s | MFU (C) | MFU (C) of measured peak | energy/token"
    assert rows[0] == f"| step | tokens | train loss | validation loss | {costs} |"
    assert rows[-1] == "| 200 | 1.638 M | 2.569 | 2.649 | 33.44 k | 66.2 % | 79.6 % | 20.63 mJ |"
    assert len([row for row in rows[2:] if row.split("|")[4].strip() != "-"]) == 4
    header = section(reports["cpu"], "Loss beside speed").strip().splitlines()[0]
    assert header == "| step | tokens | train loss | validation loss | tokens/s | MFU (C) of measured peak |"


@pytest.mark.parametrize(
    "status, text",
    [("running", "the run has not ended, or it was killed"), ("interrupted", "interrupted after step 200")],
)
def test_how_a_run_ended_comes_first_and_resumes_are_listed(tmp_path, status, text):
    folder = write_run(tmp_path / "run", status=status)
    first = SegmentRecord("2026-01-31T12:00:00+00:00", 0, None, None, "start")
    second = SegmentRecord("2026-01-31T13:00:00+00:00", 100, "2026-01-31T14:00:00+00:00", 200, "resumed")
    change(folder, segments=[first, second])
    report = write_report(folder).read_text()
    assert text in report.split("\n\n")[1]
    resumes = section(report, "Starts and resumes")
    assert "| 2026-01-31T12:00:00+00:00 | killed or still running | 0 to unknown | start |" in resumes
    assert "| 100 to 200 | resumed |" in resumes


def test_the_last_validation_of_each_domain_is_shown(reports, tmp_path):
    assert "by domain" not in reports["gpu"].split("## Prepared data")[0]
    folder = write_run(tmp_path / "run", steps=20)
    rows = [
        {"step": 10, "progress/tokens": 81920, "validation/loss/web": 5.0, "validation/bits_per_byte/web": 2.0},
        {"step": 20, "progress/tokens": 163840, "validation/loss/web": 4.25, "validation/loss/a|b": 3.5},
    ]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({**row, "time": "2026-01-31T12:00:05+00:00"}) + "\n" for row in rows)
    table = section(write_report(folder).read_text(), "Validation by domain").strip().splitlines()
    assert table[2:] == ["| a\\|b | 3.500 nats/token | not measured |", "| web | 4.250 nats/token | 2.000 |"]


def test_the_comparison_puts_runs_side_by_side(run_folders, tmp_path):
    path = write_comparison([run_folders / "sweep", run_folders / "dead"], tmp_path / "new" / "folder")
    report = path.read_text()
    assert path == tmp_path / "new" / "folder" / "comparison.md"
    assert report.startswith("# Comparison of 6 runs\n\n| run | optim.lr | seed | tokens | train loss |")
    table = report.split("\n\n")[1]
    assert cells(table, "1")[:5] == ["0.001", "2", "1.638 M", "2.546", "2.626"]
    assert cells(table, "3")[-6:] == ["—", "—", "78.6 %", "—", "—", "finished"]
    assert cells(table, "dead") == [*["—"] * 2, "0", *["—"] * 9, "failed"]
    assert [picture.name for picture in sorted(path.parent.glob("*.png"))] == [
        f"comparison_{name}.png" for name in ("energy", "loss", "mfu", "throughput")
    ]
    for said in ("> Not finished: dead.", "> The runs used different devices", "**0, 1, 2, 10**"):
        assert said in report
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=r"expected a folder to write the comparison into, found a file"):
        write_comparison([run_folders / "gpu"], tmp_path / "file")


def keep_data(folder, **changes):
    """Keep the manifest of a prepared folder in a run's folder, and name it in the record."""
    made = manifest(**changes)
    write_run_data(folder, made)
    change(folder, data={"manifest_hash": made.hash})


def test_the_data_of_a_run_is_told_with_what_was_left_out_of_it_and_that_of_another_is_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    keep_data(folder)
    data = section(write_report(folder).read_text(), "Prepared data")
    assert "selection of training text: quality=[gopher_quality,c4], exact_duplicates=true" in data
    assert "| train | Wiki | 30 | 3,000 | 30.0 % |" in data
    assert "| train | selection/gopher_quality | (all) | 30 | 21.6 % | 1,500 | 6,000 B |" in data
    assert "    unknown  train/a.jsonl:3  " in data
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", data)
    assert pictures == ["data_lengths.png"]
    assert all((folder / picture).exists() for picture in pictures)
    change(folder, data={"manifest_hash": "ef" * 32})
    with pytest.raises(ValueError, match=r"data\.json: got the manifest \w{12}, expected efefefefefef as the record"):
        write_report(folder)


def test_a_comparison_says_what_selection_took_from_the_data_of_each_run(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("selected", "whole", "unknown")]
    keep_data(folders[0])
    keep_data(folders[1], settings={"selection": {"quality": []}})
    table = section(write_comparison(folders, tmp_path / "out").read_text(), "Data and machines")
    column = [cell.strip() for cell in table.strip().splitlines()[0].strip("|").split("|")][1:].index("left out")
    taken = "27.3 % by quality=[gopher_quality,c4], exact_duplicates=true"  # 38 of 139
    for name, left_out in {"selected": taken, "whole": "none", "unknown": "—"}.items():
        assert cells(table, name)[column] == left_out


def test_a_run_on_a_shared_machine_says_so_in_report_and_comparison(tmp_path):
    for name, p95 in (("busy", 900.0), ("alone", 260.0)):
        change(write_run(tmp_path / name, steps=40), throughput={"step_ms_p95": p95})
    said = "The machine was shared: the 95th percentile of the step times is 3.6 times the median"
    assert said in write_report(tmp_path / "busy").read_text()
    warned = "> Other programs shared the machine (step times far apart) in: busy."
    assert warned in write_comparison([tmp_path], tmp_path).read_text()


def test_seeds_have_their_mean_and_spread_for_each_setting(run_folders, tmp_path):
    runs = load_runs([run_folders / "sweep"])
    table = comparison.over_seeds(runs)
    assert table.header == ["optim.lr", "seeds", "validation loss", "bits per byte", "tokens/s", "energy/token"]
    assert [group[:2] for group in table.cells] == [["0.001", "1, 2"], ["0.0003", "1, 2"], ["0.0001", "1"]]
    first, second = (run.record.quality.validation_loss for run in runs[:2])
    assert table.cells[0][2].startswith(f"{(first + second) / 2:.3f} ± ")
    assert f"({min(first, second):.3f} to {max(first, second):.3f}, n = 2)" in table.cells[0][2]
    assert table.cells[1][5].endswith("(n = 1)")  # one of the two had no energy counter
    assert table.markdown() in write_comparison([run_folders / "sweep"], tmp_path / "out").read_text()
    write_run(tmp_path / "1", seed=1, steps=8)
    write_run(tmp_path / "2", seed=1, steps=8, learning_rate=3e-4)
    write_run(tmp_path / "3", seed=2, steps=8, status="failed")
    assert comparison.over_seeds(load_runs([tmp_path])) is None
