"""The ledger's page says what its records say, in one way, and nothing of records that are refused."""

import re
import shutil

import pytest

from litespark.cli import main
from litespark.metrics.records.run import DeviceRecord
from litespark.reports.ledger import ON_CPU, check_ledger, render, with_rendering, write_ledger
from litespark.reports.markdown_blocks import BEGIN, END
from tests.metrics.records.test_loop_and_ops import loop_record, ops_record
from tests.metrics.records.test_run import make_record
from tests.reports.synthetic_records import (
    CPU,
    ablation_record,
    profile_record,
    results_folder,
    step_record,
)

OLD = step_record({"litespark": 10.0, "sdpa": 25.0})
NEW = step_record({"litespark": 12.5, "sdpa": 20.0}, day="2026-02-01")
UNFINISHED = step_record({"litespark": 8.0}, day="2026-02-02", complete=False)
ON_A_CPU = step_record({"litespark": 500.0}, day="2026-02-03", device=CPU)


def test_gpus_come_first_and_a_cpu_is_marked(tmp_path):
    text = render(results_folder(tmp_path, ON_A_CPU, NEW))
    assert text.index("## NVIDIA H200") < text.index("## a CPU") < text.index(ON_CPU)
    assert text.count(ON_CPU) == 1
    assert "no record of a GPU" not in text
    assert render(results_folder(tmp_path / "other", ON_A_CPU)).startswith("There is no record of a GPU yet.")
    assert render(results_folder(tmp_path / "empty")) == "There is no record yet."


def test_the_newest_complete_record_is_shown_with_the_best_of_each_variant_and_the_history(tmp_path):
    text = render(results_folder(tmp_path, OLD, NEW, UNFINISHED))
    newest, history = (
        "[bench-step tiny bf16](nvidia-h200/2026-02-01_bench-step_tiny_bf16.json)",
        text.split("History:")[1],
    )
    assert newest in text.split("Best of each")[0]
    best = {row[0]: row[1] for row in re.findall(r"^\| (\S+) \| ([\d.]+ k) \|", text.split("Best of each")[1], re.M)}
    # 1000 tokens in 8 ms, though not complete, and in 20 ms
    assert best == {"litespark": "125.0 k", "sdpa": "50.00 k"}
    assert re.findall(r"^- \[(\S+)\]\(nvidia-h200/\S+\.json\), \S+, commit c0ffee1(.*?):", history, re.M) == [
        ("2026-02-02", ", NOT complete"), ("2026-02-01", ""), ("2026-01-31", ""),
    ]  # fmt: skip
    assert "litespark 100.0 k tokens/s, sdpa 40.00 k tokens/s" in history


def test_a_row_in_doubt_is_never_the_best(tmp_path):
    wrong = step_record({"litespark": 1.0, "sdpa": 20.0, "standard": 40.0}, day="2026-02-05")
    wrong.variants[0].rounds[0].loss = 9.0
    text = render(results_folder(tmp_path, OLD, wrong)).split("Best of each")[1].split("History:")[0]
    assert "| litespark | 100.0 k |" in text
    assert "| sdpa | 50.00 k |" in text


def test_records_of_other_shapes_are_not_put_together(tmp_path):
    other = step_record({"litespark": 1.0}, day="2026-02-04")
    other.protocol.micro_batch_size = 8
    assert "Best of each" not in render(results_folder(tmp_path, NEW, other))


def test_runs_loops_and_ops_have_a_line_each_with_a_link(tmp_path):
    results = results_folder(tmp_path, ON_A_CPU)
    run = make_record(status="finished")
    run.quality.validation_loss, run.quality.perplexity, run.quality.bits_per_byte = 0.0, 1.0, 1.93
    loop, ops = loop_record(), ops_record()
    for each in (run, loop, ops):
        each.environment.devices = [DeviceRecord(each.environment.cpu)]
    for record, what in ((run, "quickstart"), (loop, "bench-loop")):
        record.write(results / "a-cpu" / f"2026-01-31_{what}_tiny_fp32.json")
    ops.write(results / "a-cpu" / "2026-01-31_bench_ops_tiny_fp32.json")
    text = render(results)
    assert "[bench-loop tiny fp32](a-cpu/2026-01-31_bench-loop_tiny_fp32.json)" in text
    assert "1.800 of the bare loop's time a step, median of 2 blocks (1.600 to 2.000)" in text
    assert "1.930 bits per byte" in text
    assert "- swiglu: fastest is reference, 6.000 ms, 1.00 times as fast as the reference, 50.0 % and 50.0 %" in text


def test_ablations_and_profiles_have_a_few_lines_each(tmp_path):
    results = results_folder(tmp_path)
    made = {"bench-ablation": ablation_record(), "bench-profile": profile_record()}
    for what, record in made.items():
        record.write(results / "nvidia-h200" / f"2026-01-31_{what}_tiny_bf16.json")
    text = render(results)
    for what, title in zip(made, ("What bought what", "Where the time goes"), strict=True):
        assert f"### {title}\n\n[{what} tiny bf16](nvidia-h200/2026-01-31_{what}_tiny_bf16.json), 2026-01-31" in text
    assert "the target over the baseline's: × 5.00; J/token: × 1.00. Switched on" in text
    assert "each over the one before: norm × 2.00, rope × 2.50." in text
    assert "litespark: 9.500 ms a step (10.00 ms under the profiler), floor 6.000 ms" in text
    assert "Most above its floor: gemm 2.000 ms, idle 2.000 ms." in text


def test_the_order_in_which_files_are_found_changes_nothing(tmp_path):
    one = render(results_folder(tmp_path / "one", OLD, NEW, ON_A_CPU))
    assert one == render(results_folder(tmp_path / "two", ON_A_CPU, NEW, OLD)) == render(tmp_path / "one" / "results")


def test_what_was_written_by_hand_stays(tmp_path):
    page = f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n"
    once = with_rendering(page, "new")
    assert once == f"Before.\n{BEGIN}\n\nnew\n\n{END}\nAfter.\n"
    assert with_rendering(once, "new") == once
    for broken in ("nothing", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}", f"{BEGIN}\n{END}\n{END}"):
        with pytest.raises(ValueError, match="expected one line '<!-- rendered by"):
            with_rendering(broken, "new")


def test_the_command_writes_the_page_and_checks_it(tmp_path, capsys):
    results = results_folder(tmp_path, NEW)
    command = ["results", "--root", str(tmp_path)]
    assert main([*command, "--check"]) == 1
    assert "results/README.md: is not what its records say; run: litespark results" in capsys.readouterr().err
    assert main(command) == 0
    written = (results / "README.md").read_text()
    assert written.startswith("# Records\n\nBy hand.\n")
    assert "## NVIDIA H200" in written
    assert main([*command, "--check"]) == 0
    (results / "README.md").write_text(written.replace("By hand.", "By hand: 3 ms."))
    assert main([*command, "--check"]) == 1
    (problem,) = capsys.readouterr().err.splitlines()
    assert problem.startswith("results/README.md:3: '3 ms' states a figure without a record")


def test_a_page_that_was_edited_by_hand_or_misses_a_record_is_a_problem(tmp_path):
    results = results_folder(tmp_path, NEW)
    page = write_ledger(results)
    assert check_ledger(tmp_path) == []
    page.write_text(page.read_text().replace("80.00 k", "90.00 k").replace("80,000", "90,000"))
    assert check_ledger(tmp_path) == ["results/README.md: is not what its records say; run: litespark results"]
    write_ledger(results)
    results_folder(tmp_path / "more", OLD)
    shutil.copytree(tmp_path / "more" / "results" / "nvidia-h200", results / "nvidia-h200", dirs_exist_ok=True)
    assert len(check_ledger(tmp_path)) == 1


def test_a_record_that_is_refused_stops_the_rendering_and_is_named(tmp_path, capsys):
    results = results_folder(tmp_path, NEW)
    before = (results / "README.md").read_text()
    (path,) = results.glob("*/*.json")
    path.write_text(path.read_text().replace("12.5", "11.5"))
    assert main(["results", "--root", str(tmp_path)]) == 1
    assert "the file was changed after it was written" in capsys.readouterr().err
    assert (results / "README.md").read_text() == before
    (problem,) = check_ledger(tmp_path)
    assert path.name in problem
