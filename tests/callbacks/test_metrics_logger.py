"""The run's own metrics files."""

import json
import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from litespark.callbacks.metrics_logger import MetricsLogger, log_everywhere
from litespark.mesh import Mesh
from litespark.metrics import names


def rows_in(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def written(folder, count=3):
    logger = MetricsLogger(folder)
    for step in range(1, count + 1):
        logger.log_metrics(row(step, float(step)), step)
    logger.finalize("success")
    return logger


def row(step, loss):
    return {names.PROGRESS_TOKENS: 8 * step, names.TRAIN_LOSS: loss}


def test_values_of_a_step_merge_into_one_row_which_is_on_disk_once_it_is_closed(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.forget_after(0)
    assert not list(tmp_path.iterdir())
    logger.log_metrics({"a": 1.0}, 1)
    logger.log_metrics({"b": 2.0}, 1)
    logger.log_metrics({"a": 3.0}, 2)
    (row,) = rows_in(tmp_path)
    assert row.pop("time").endswith("+00:00")
    assert row == {"step": 1, "a": 1.0, "b": 2.0}
    for _ in range(2):
        logger.save()
        assert [row["step"] for row in rows_in(tmp_path)] == [1, 2]
    assert logger.latest == {"a": 3.0, "b": 2.0}


def test_what_was_not_measured_is_absent(tmp_path):
    logger = MetricsLogger(tmp_path)
    module = SimpleNamespace(mesh=Mesh(), trainer=SimpleNamespace(loggers=[logger]), steps_taken=1)
    log_everywhere(module, {"a": 1.0, "none": None, "nan": math.nan, "infinite": -math.inf, "zero": 0.0})
    module.steps_taken = 2
    log_everywhere(module, {"none": None})
    logger.finalize("success")
    (row,) = rows_in(tmp_path)
    assert set(row) == {"step", "time", "a", "zero"}
    assert set(logger.latest) == {"a", "zero"}


def test_the_first_rank_alone_logs(tmp_path):
    second = SimpleNamespace(is_first=False)
    logger, everywhere = MetricsLogger(tmp_path, second), Mock()
    module = SimpleNamespace(mesh=second, trainer=SimpleNamespace(loggers=[everywhere]), steps_taken=1)
    log_everywhere(module, {"a": 1.0})
    logger.log_metrics({"a": 1.0}, 1)  # as Lightning does for `self.log`, on all ranks
    logger.forget_after(0)
    logger.finalize("success")
    assert (everywhere.mock_calls, logger.latest, [*tmp_path.iterdir()]) == ([], {}, [])


def test_a_resume_forgets_the_rows_that_it_will_write_again(tmp_path):
    written(tmp_path, 5)
    logger = MetricsLogger(tmp_path)
    logger.forget_after(3)
    assert logger.latest["train/loss"] == 3  # what is shown until the first new row
    logger.log_metrics(row(4, 40.0), 4)
    logger.finalize("success")
    assert [(row["step"], row["train/loss"]) for row in rows_in(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["metrics.jsonl"]


def test_half_a_line_of_a_killed_run_does_not_spoil_the_file(tmp_path):
    written(tmp_path, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "tra')
    logger = MetricsLogger(tmp_path)
    logger.forget_after(2)
    logger.log_metrics(row(3, 3.0), 3)
    logger.finalize("success")
    assert [row["step"] for row in rows_in(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("line", ["[1]", '{"train/loss": 1.0}', '{"step": null}'])
def test_a_resume_leaves_a_damaged_file_as_it_is(tmp_path, line):
    written(tmp_path, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    before = path.read_text()
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: .*; remove the line, or restore the file"):
        MetricsLogger(tmp_path).forget_after(2)
    assert path.read_text() == before
