"""Committed records validate and come from a commit, the page is their rendering, and no document states a figure
that they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from litespark.metrics.records.ledger import read_entry, read_ledger
from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.sealing import write_values
from litespark.metrics.records.strict_json import RecordError
from litespark.reports.figures import check_document, check_documents
from litespark.reports.ledger import check_ledger, render, with_rendering

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RECORDS = sorted(RESULTS.glob("*/*.json"))
QUICKSTARTS = sorted(RESULTS.glob("*/*_quickstart_*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_committed_record_validates_and_names_its_commit(path: Path):
    assert read_entry(path).git_commit


@pytest.mark.parametrize("path", QUICKSTARTS, ids=lambda path: path.name)
def test_a_quickstart_record_is_whole(path: Path):
    record = RunRecord.read(path)
    assert record.status == "finished"
    assert record.git_dirty is False
    assert record.quality.validation_loss is not None
    assert record.quality.validation_loss < record.data.unigram_entropy


def test_the_picture_of_the_readme_has_a_record():
    assert QUICKSTARTS


def test_everything_in_the_folder_of_results_is_a_record_or_a_text():
    strange = [path for path in RESULTS.rglob("*") if path.is_file() and path.suffix not in (".json", ".md", ".png")]
    assert not strange
    assert set(RESULTS.rglob("*.json")) == set(RECORDS)


def test_the_page_is_the_rendering_of_the_records():
    page = (RESULTS / "README.md").read_text()
    assert page == with_rendering(page, render(RESULTS)), "run: litespark results"


def test_no_document_states_a_figure_without_a_record():
    assert check_documents(ROOT) == []


# ---------------------------------------------------------------- the same with faults planted


@pytest.fixture
def copy(tmp_path) -> Path:
    """A folder with the committed results, whose page is their rendering."""
    shutil.copytree(RESULTS, tmp_path / "results")
    assert check_ledger(tmp_path) == []
    return tmp_path


def quickstart(root: Path) -> Path:
    return root / QUICKSTARTS[-1].relative_to(ROOT)


def resealed(path: Path, **changes: object) -> None:
    """Change a run record as somebody would who knows how seals are made."""
    values = json.loads(path.read_text())
    values = {**RunRecord.from_dict({key: values[key] for key in values if key != "seal"}).to_dict(), **changes}
    write_values(values, path)


def test_a_digit_that_was_tampered_with_is_seen(copy):
    path = quickstart(copy)
    resealed(path)
    assert not read_ledger(copy / "results")[1]
    path.write_text(path.read_text().replace('"seed": 1234', '"seed": 4321'))
    (problem,) = check_ledger(copy)
    assert path.name in problem
    assert "the file was changed after it was written" in problem


def test_a_tampered_record_with_a_new_seal_contradicts_itself(copy):
    path = quickstart(copy)
    throughput = json.loads(path.read_text())["throughput"]
    resealed(path, throughput={**throughput, "tokens_per_second": 10 * throughput["tokens_per_second"]})
    (problem,) = check_ledger(copy)
    assert "throughput.tokens_per_second: got" in problem


def test_a_measurement_of_a_gpu_from_changed_code_is_seen(copy):
    path = quickstart(copy)
    environment = json.loads(path.read_text())["environment"]
    environment["devices"][0]["name"] = "NVIDIA H200"
    resealed(path, environment=environment, git_dirty=True)
    with pytest.raises(RecordError, match="git_dirty True, expected a clean commit"):
        read_entry(path)


def test_a_record_that_is_missing_is_seen_on_the_page_and_where_it_is_cited(copy):
    text = f"4.682 nats <!-- record: {QUICKSTARTS[-1].relative_to(ROOT)}#quality.validation_loss -->"
    loss = RunRecord.read(QUICKSTARTS[-1]).quality.validation_loss
    text = text.replace("4.682", f"{loss:.3f}")
    assert check_document(text, "README.md", copy) == []
    assert "is not what its record says" in check_document(text.replace(f"{loss:.3f}", "3.141"), "a.md", copy)[0]
    assert "states a figure without a record" in check_document(text.split("<!--")[0], "a.md", copy)[0]
    quickstart(copy).unlink()
    assert "No such file" in check_document(text, "README.md", copy)[0]
    assert check_ledger(copy) == ["results/README.md: is not what its records say; run: litespark results"]
