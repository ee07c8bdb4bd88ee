"""`metrics.jsonl` has one reader: half of a last line is left out, other damage is named with its file and line."""

import json

import pytest

from litespark.metrics import names
from litespark.run.metric_rows import read_metrics

ROWS = [{"step": step, names.PROGRESS_TOKENS: 8 * step, names.TRAIN_LOSS: 3.0} for step in (1, 2)]
WHOLE = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_rows_are_read_as_they_were_written_and_a_run_without_a_file_has_none(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(WHOLE)
    assert read_metrics(tmp_path) == ROWS


@pytest.mark.parametrize("half", ['{"step": 3, "progress/tok', '{"step": 3}', "\x00\x00"])
def test_a_last_line_without_its_end_is_left_out_and_a_line_that_ends_is_not(tmp_path, half):
    (tmp_path / "metrics.jsonl").write_text(WHOLE + half)
    assert read_metrics(tmp_path) == ROWS
    (tmp_path / "metrics.jsonl").write_text(f"{WHOLE}{half}\n")
    with pytest.raises(ValueError, match=r"/metrics.jsonl, line 3: .*; remove the line, or restore the file"):
        read_metrics(tmp_path)
