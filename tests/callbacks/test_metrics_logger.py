"""The run's own metrics files."""

import csv
import json
import math
from types import SimpleNamespace

import pytest

from litespark.callbacks.interval import LogInterval
from litespark.callbacks.metrics_logger import MetricsLogger, log_everywhere


def rows_in(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def written(folder, count=3):
    logger = MetricsLogger(folder)
    for step in range(1, count + 1):
        logger.log_metrics({"train/loss": float(step)}, step)
    logger.finalize("success")
    return logger


def test_values_of_a_step_merge_into_one_row(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    logger.log_metrics({"b": 2.0}, 1)
    logger.log_metrics({"a": 3.0}, 2)
    logger.finalize("success")
    rows = rows_in(tmp_path)
    assert [{key: value for key, value in row.items() if key != "time"} for row in rows] == [
        {"step": 1, "a": 1.0, "b": 2.0},
        {"step": 2, "a": 3.0},
    ]
    assert all(row["time"].endswith("+00:00") for row in rows)
    assert logger.latest == {"a": 3.0, "b": 2.0}


def test_closed_rows_are_on_disk_while_the_run_goes_on(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    logger.log_metrics({"a": 2.0}, 2)
    assert [row["step"] for row in rows_in(tmp_path)] == [1]
    logger.save()
    assert [row["step"] for row in rows_in(tmp_path)] == [1, 2]
    logger.save()
    assert len(rows_in(tmp_path)) == 2


def test_the_table_holds_what_the_rows_hold(tmp_path):
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"a": 0.1 + 0.2}, 1)
    logger.log_metrics({"validation/loss": 2.5}, 2)
    logger.log_metrics({"a": 1e-9, "new": 3.0}, 3)
    logger.finalize("success")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    read = [
        {key: value if key == "time" else float(value) for key, value in row.items() if value != ""} for row in table
    ]
    assert read == rows_in(tmp_path)


def test_what_was_not_measured_is_absent(tmp_path):
    logger = MetricsLogger(tmp_path)
    trainer = SimpleNamespace(is_global_zero=True, loggers=[logger])
    log_everywhere(trainer, {"a": 1.0, "none": None, "nan": math.nan, "infinite": -math.inf, "zero": 0.0}, 1)
    log_everywhere(trainer, {"none": None}, 2)
    logger.finalize("success")
    (row,) = rows_in(tmp_path)
    assert set(row) == {"step", "time", "a", "zero"}


def test_other_ranks_log_nothing(tmp_path):
    logger = MetricsLogger(tmp_path)
    log_everywhere(SimpleNamespace(is_global_zero=False, loggers=[logger]), {"a": 1.0}, 1)
    assert logger.latest == {}


def test_a_resume_forgets_the_rows_that_it_will_write_again(tmp_path):
    written(tmp_path, 5)
    logger = MetricsLogger(tmp_path)
    logger.forget_after(3)
    assert logger.latest["train/loss"] == 3  # what is shown until the first new row
    logger.log_metrics({"train/loss": 40.0}, 4)
    logger.finalize("success")
    assert [(row["step"], row["train/loss"]) for row in rows_in(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["metrics.csv", "metrics.jsonl"]


HALF_LINES = [
    '{"step": 3, "tra',
    "{",
    '{"train/loss": 1.0}\n',
    "[1]\n",
    '{"step": null}\n',
    '{"step": 2, "train/loss": 9}',
]


@pytest.mark.parametrize("half", HALF_LINES)
def test_what_a_killed_run_left_does_not_spoil_the_file(tmp_path, half):
    written(tmp_path, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    logger = MetricsLogger(tmp_path)
    logger.forget_after(2)
    logger.log_metrics({"train/loss": 3.0}, 3)
    logger.finalize("success")
    steps = [row["step"] for row in rows_in(tmp_path)]
    assert steps == sorted(steps)
    assert steps[-1] == 3
    assert {1, 2} <= set(steps)


def test_a_fresh_folder_has_nothing_to_forget(tmp_path):
    MetricsLogger(tmp_path).forget_after(0)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ when to log


def due_steps(every, budget, steps, micro_batches=3):
    module = SimpleNamespace(steps_taken=0, finished=False)
    interval, due = LogInterval(every), []
    interval.start(module)
    for step in range(1, steps + 1):
        for micro_batch in range(micro_batches):
            module.steps_taken = step if micro_batch == micro_batches - 1 else step - 1
            module.finished = module.steps_taken >= budget
            if interval.step_ended(module) and interval.due(module):
                due.append(step)
    return due


def test_an_interval_ends_once_and_so_does_the_run():
    assert due_steps(4, 10, 10) == [4, 8, 10]
    assert due_steps(5, 10, 10) == [5, 10]
    assert due_steps(100, 3, 3) == [3]


def test_an_interval_after_a_resume_ends_at_the_same_steps():
    module = SimpleNamespace(steps_taken=6, finished=False)
    interval = LogInterval(4)
    interval.start(module)
    assert not interval.step_ended(module)
    module.steps_taken = 7
    assert interval.step_ended(module)
    assert not interval.due(module)
