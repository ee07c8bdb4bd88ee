"""train.py as a variant: what it is given, and what is made of its records."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from litespark.benchmarks.step.process import asked_parts
from litespark.benchmarks.step.training_script import read_run, run_training_script, script_overrides, window_steps
from litespark.metrics import names
from litespark.metrics.nvml import LABEL as GPU_LABEL
from litespark.run.record import EnergyRecord, QualityRecord, RunRecord, ThroughputRecord
from tests.benchmarks.step.tiny_steps import parts, request
from tests.metrics.records.hand_made import make_record

# two micro-batches of two sequences of 32 tokens
TOKENS = 2 * 2 * 32


def _rows(rates: list[float], window: int, joules: list[float] | None = None) -> list[dict[str, Any]]:
    rows = []
    for index, rate in enumerate(rates, 1):
        row = {"step": index * window, names.PROGRESS_TOKENS: index * window * TOKENS, names.TOKENS_PER_SECOND: rate}
        row[names.TRAIN_LOSS] = 5.0 - index
        rows.append(row if joules is None else row | {names.TRAIN_JOULES: joules[index - 1]})
    # a validation has a row of its own values
    return [*rows[:-1], rows[-1] | {names.VALIDATION_LOSS: 2.5}]


def _run(dropped: int = 0, **changes: Any) -> RunRecord:
    values = {
        "energy": EnergyRecord(label=GPU_LABEL, method="NVML total-energy counter", dropped_readings=dropped),
        "quality": QualityRecord(validation_loss=2.5),
        "throughput": ThroughputRecord(peak_memory_gib=1.5),
        "status": "finished",
    }
    return make_record(**(values | changes))


def _asked(tmp_path: Path) -> tuple[Any, Any]:
    asked = request(tmp_path, "train.py", "train.py")  # two steps of warm-up, four that count
    return asked_parts(parts(tmp_path), asked), asked


@pytest.mark.parametrize(
    ("log_every", "warmup", "steps", "expected"),
    [(10, 3, 20, 1), (10, 5, 20, 5), (10, 10, 30, 10), (4, 10, 20, 2), (10, 20, 20, 10), (1, 8, 8, 1)],
)
def test_windows_are_the_longest_of_which_warm_up_and_counted_steps_are_whole_numbers(
    log_every, warmup, steps, expected
):
    assert window_steps(log_every, warmup, steps) == expected


def test_the_time_of_a_counted_step_is_the_mean_of_its_window(tmp_path):
    # windows at 64, 128 and 32 tokens/s: two steps of 128 tokens take 4, 2 and 8 seconds
    answer = read_run(*_asked(tmp_path), 2, _run(), _rows([64.0, 128.0, 32.0], 2, [100.0, 250.0, 900.0]))
    assert answer.step_ms == pytest.approx([1000, 1000, 4000, 4000])
    assert answer.tokens == 4 * TOKENS
    # without masks each token sees those before it and itself
    assert answer.attention_pairs == 4 * 4 * 32 * 33 // 2
    assert (answer.joules, answer.joules_reason) == (800.0, None)
    assert (answer.loss, answer.peak_memory_mib) == (2.5, 1536)
    # a window's loss is not that of one step
    assert answer.train_loss == []
    assert str(answer.detail).startswith("windows of 2 steps")
    # windows of one step: joules from the end of the warm-up
    answer = read_run(*_asked(tmp_path), 1, _run(), _rows([64.0] * 6, 1, [10.0, 25.0, 100.0, 200.0, 300.0, 425.0]))
    assert answer.train_loss == [4.0, 3.0, 2.0, 1.0, 0.0, -1.0]
    assert answer.joules == 400.0


def test_joules_that_do_not_count_are_absent_with_the_reason(tmp_path):
    for run, joules, reason in ((_run(dropped=1), [1.0, 2.0, 3.0], "dropped"), (_run(), None, "counter at both ends")):
        answer = read_run(*_asked(tmp_path), 2, run, _rows([64.0] * 3, 2, joules))
        assert answer.joules is None
        assert reason in str(answer.joules_reason)


def test_a_run_that_took_other_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"windows that end at the steps \[2, 4\], expected every 2 up to 6"):
        read_run(*_asked(tmp_path), 2, _run(), _rows([64.0, 64.0], 2))
    with pytest.raises(ValueError, match="no validation loss"):
        read_run(*_asked(tmp_path), 2, _run(quality=QualityRecord()), _rows([64.0] * 3, 2))


def test_what_the_benchmark_gives_train_py_makes_the_config_that_it_means(tmp_path):
    asked = request(tmp_path, "train.py", "train.py", recompute="full", layers=1)
    mine = asked_parts(parts(tmp_path, "trainer.validate_every=1", "budget.tokens=99"), asked)
    odd = tmp_path / "it's a = {folder}"
    theirs = parts(tmp_path, "trainer.validate_every=1", "budget.tokens=99", *script_overrides(mine, asked, 2, odd))
    assert theirs.logs == odd
    for same in ("model", "ops", "recompute", "data", "optim", "budget", "seed"):
        assert getattr(theirs, same) == getattr(mine, same), same
    assert (theirs.model.num_layers, theirs.recompute, theirs.budget.steps) == (1, "full", 6)
    assert theirs.trainer == dataclasses.replace(mine.trainer, validate_every=None, log_every=2)
    assert not theirs.callbacks.checkpoint_at_end


def test_a_train_py_that_does_not_start_is_an_error(tmp_path):
    mine, asked = _asked(tmp_path)
    script = tmp_path / "broken.py"
    script.write_text("print('no room')\nexit(7)")
    with pytest.raises(RuntimeError, match="no first step: ended with status 7: no room"):
        run_training_script(mine, asked, script)
    assert not list(tmp_path.glob("train-*"))
