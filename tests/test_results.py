"""Committed records can be read, come from a clean commit, and back the picture in the README."""

from pathlib import Path

import pytest

from litespark.metrics.records.run import RunRecord

RESULTS = Path(__file__).parents[1] / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*_quickstart_*.json")), ids=lambda path: path.name)
def test_a_quickstart_record_is_whole(path: Path):
    record = RunRecord.read(path)
    assert record.status == "finished"
    assert record.git_commit
    assert record.git_dirty is False
    assert record.quality.validation_loss is not None
    assert record.quality.validation_loss < record.data.unigram_entropy


def test_the_picture_of_the_readme_has_a_record():
    assert list(RESULTS.glob("*/*_quickstart_*.json"))
