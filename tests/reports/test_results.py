"""Committed records validate, pages and figures are rendered from them in one way, and a planted fault is found."""

import re
from pathlib import Path

import pytest

from litespark.cli import main
from litespark.metrics.records.index import read_entry
from litespark.reports import marks, results
from litespark.reports.marks import check_documents, rendered, write_documents
from litespark.reports.page import Templates
from litespark.reports.training import tables as training_tables
from litespark.run.record import EnergyRecord, QualityRecord
from tests.metrics import ablation_records
from tests.metrics.records.hand_made import CPU, changed, make_record, ops_record, profile_record
from tests.metrics.training_records import to_target
from tests.reports.synthetic_records import results_folder, step_record

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
RECORDS = sorted(RESULTS.glob("*/*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_committed_record_validates_and_names_its_commit(path: Path):
    assert read_entry(path).origin.git_commit


def test_committed_documents_show_what_their_records_hold():
    assert check_documents(ROOT) == [], "run: litespark results"
    shown = "".join(marks.documents(ROOT).values())
    assert shown.count("<!-- end -->") > 2


OLD = step_record({"litespark": 10.0, "sdpa": 25.0})
NEW = step_record({"litespark": 12.5, "sdpa": 20.0}, day="2026-02-01")
UNFINISHED = changed(step_record({"litespark": 8.0, "sdpa": 5.0}, day="2026-02-02"), "variants.1.rounds", [])
ON_CPU = "These figures of a CPU show that the instruments work"
ON_A_CPU = step_record({"litespark": 500.0}, day="2026-02-03", device=CPU)


def test_gpus_come_first_and_a_cpu_is_marked(tmp_path):
    text = results.page(results_folder(tmp_path, ON_A_CPU, NEW))
    assert text.index("## NVIDIA H200") < text.index("## a CPU") < text.index(ON_CPU)
    assert text.count(ON_CPU) == 1
    assert "no record of a GPU" not in text
    assert text == results.page(results_folder(tmp_path / "other", NEW, ON_A_CPU)), "whatever the order of the files"
    assert results.page(results_folder(tmp_path / "cpu", ON_A_CPU)).startswith("There is no record of a GPU yet.")
    assert results.page(results_folder(tmp_path / "empty")) == "There is no record yet."


def test_the_newest_complete_record_is_shown_with_the_history(tmp_path):
    newest, history = results.page(results_folder(tmp_path, OLD, NEW, UNFINISHED)).split("Others:")
    assert "[bench-step tiny bf16](nvidia-h200/2026-02-01_bench-step_tiny_bf16.json), 2026-02-01, commit " in newest
    assert re.findall(r"^- \[(\S+)\]\(nvidia-h200/\S+\.json\), commit c0ffee1(.*?):", history, re.M) == [
        ("2026-02-02", ", NOT complete"),
        ("2026-01-31", ""),
    ]
    assert "tokens/s litespark 100.0 k, sdpa 40.00 k" in history
    other = changed(step_record({"litespark": 1.0}, day="2026-02-04"), "protocol.micro_batch_size", 8)
    assert "Others:" not in results.page(results_folder(tmp_path / "other shapes", NEW, other))


def test_every_kind_of_record_has_its_place_with_a_link(tmp_path):
    folder = results_folder(tmp_path, ON_A_CPU)
    run = make_record(status="finished")
    run.quality = QualityRecord(validation_loss=0.0, perplexity=1.0, bits_per_byte=1.93)
    run.energy = EnergyRecord(reason="no counter")
    ops = ops_record()
    made = {"quickstart": run, "bench-ops": ops, "bench-to-loss": to_target()}
    for what, record in made.items():
        record.write(folder / "a-cpu" / f"2026-01-31_{what}_tiny_fp32.json")
    for what, record in {"bench-ablation": ablation_records.record(), "bench-profile": profile_record()}.items():
        record.write(folder / "nvidia-h200" / f"{record.provenance.time[:10]}_{what}_tiny_bf16.json")
    text = results.page(folder)
    for part in (
        "[quickstart tiny fp32](a-cpu/2026-01-31_quickstart_tiny_fp32.json), 2026-01-31",
        "1.930 bits per byte",
        "50.0 % 50.0 % |",
        "### What bought what\n\n[bench-ablation tiny bf16](nvidia-h200/2026-01-02_bench-ablation_tiny_bf16.json)",
        "target over baseline: tokens/s × 4.500 (4.000 to 5.000); J/token × 0.375 (0.250 to 0.500)",
        "| gemm | 6.00 | 60.0 % | 4.00 | 2.00 |",
        "a step under the profiler takes 10.0 ms, without it 9.50 ms",
        "Settings: `optim.lr=1e-3`.",
        training_tables(to_target())[0].markdown(),
    ):
        assert part in text, part


FILE = "results/nvidia-h200/2026-02-01_bench-step_tiny_bf16.json"


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with one record, and a README that shows its speed."""
    results_folder(tmp_path, NEW)
    mark = f"<!-- from {FILE}: rows.litespark.tokens_per_second | rate --><!-- end -->"
    (tmp_path / "README.md").write_text(f"# Speed\n\nIt reaches {mark} tokens/s.\n")
    write_documents(tmp_path)
    assert check_documents(tmp_path) == []
    return tmp_path


def test_the_command_writes_figures_and_the_page_and_leaves_the_rest(root, capsys):
    assert "| rate -->80.00 k<!-- end --> tokens/s.\n" in (root / "README.md").read_text()
    page = (root / "results" / "README.md").read_text()
    assert page.startswith("# Records\n\nBy hand.\n\n<!-- from results: page -->\n\n")
    assert page.endswith("\n\n<!-- end -->\n")
    assert main(["results", "--root", str(root), "--check"]) == 0
    as_code = "`<!-- from results/DEVICE/FILE.json: record.seed | count -->1<!-- end -->`"
    assert rendered(as_code, root) == as_code
    (root / "results" / "README.md").write_text(page.replace("80.00 k", "90.00 k"))
    capsys.readouterr()
    assert main(["results", "--root", str(root), "--check"]) == 1
    assert capsys.readouterr().err.startswith("results/README.md:5: got")
    text = (root / "README.md").read_text()
    (root / "README.md").write_text(text.replace("80.00 k", "81.00 k"))
    stale = f"README.md:3: got '81.00 k', expected '80.00 k' of {FILE}; run: litespark results"
    assert check_documents(root)[0] == stale
    assert main(["results", "--root", str(root)]) == 0
    assert (root / "results" / "README.md").read_text() == page


def test_an_expression_reaches_fields_and_what_is_computed_from_them(root):
    for expression, shown in {
        "rows.litespark.repeats.median('joules_per_token') | scaled('J')": "2.000 mJ",
        "ratios.litespark.sdpa.tokens_per_second.median | plain('times', 3)": "1.60 times",
        "record.variants[1].rounds[0].step_ms[1] | plain('ms')": "20.00 ms",
    }.items():
        text = rendered(f"a <!-- from {FILE}: {expression} -->?<!-- end --> b", root)
        assert text.endswith(f"-->{shown}<!-- end --> b")


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        (f"{FILE}: rows.litespark.colour | plain", "has no attribute 'colour'"),
        (f"{FILE}: ratios.litespark.compiled | plain", "got 'not part of this benchmark', expected a number"),
        (f"{FILE}: rows.litespark.roofline_ms | plain", "got None, expected a number that was measured"),
        (f"{FILE}: record.complete | plain", "got True, expected a number"),
        (f"{FILE}: record.__class__.__mro__ | plain", "unsafe|not permitted|expected a number|access to attribute"),
        (f"{FILE}: 1 +", "results/nvidia-h200"),
        ("results/nowhere/x.json: record.seed | count", "no such record"),
    ],
)
def test_a_mark_without_a_value_is_named_and_nothing_is_written(root, mark, complaint):
    text = f"first\n<!-- from {mark} -->5<!-- end -->\n"
    (root / "CHANGELOG.md").write_text(text)
    (problem,) = check_documents(root)
    assert problem.startswith("CHANGELOG.md:2: ")
    assert re.search(complaint, problem), problem
    with pytest.raises(ValueError, match=complaint):
        write_documents(root)
    assert (root / "CHANGELOG.md").read_text() == text


def test_a_record_that_is_missing_or_refused_is_named_and_stops_the_writing(root, capsys):
    before = (root / "results" / "README.md").read_text()
    path = root / FILE
    path.write_text(path.read_text().replace('"round": 0', '"round": "none"', 1))
    (problem,) = check_documents(root)
    assert path.name in problem
    assert main(["results", "--root", str(root)]) == 1
    assert path.name in capsys.readouterr().err
    assert (root / "results" / "README.md").read_text() == before
    path.unlink()
    assert len(check_documents(root)) == 2, "the page, and the figure that is cited"


def test_a_property_that_fails_is_not_taken_for_one_that_is_missing():
    class Record:
        @property
        def speed(self):
            return None.tokens

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'tokens'"):
        Templates().from_string("{{ record.speed }}").render(record=Record())
