"""What is timed and metered of a row of steps, on a clock and a meter that the test moves."""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from litespark.benchmarks.step.stepping import StepBatch, counted_joules, step_batches, take_steps, tokens_hash
from litespark.data.batch import batch_from_sequences
from litespark.device import device_of
from litespark.launch import Ranks
from litespark.run.preflight import Machine
from litespark.training.schedule import CosineSchedule
from tests.benchmarks.step.tiny_steps import parts
from tests.metrics.fake_meter import FakeMeter
from tests.stand_in_device import stand_in

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Planned:
    """A clock that stands but in steps, which take planned seconds and have planned losses."""

    def __init__(self, seconds: list[float], losses: list[float], log: list[str]) -> None:
        self.now, self.seconds, self.losses, self.log = 100.0, iter(seconds), iter(losses), log

    def time(self) -> float:
        return self.now

    def step(self, batch: StepBatch) -> torch.Tensor:
        self.log.append("step")
        self.now += next(self.seconds)
        return torch.tensor(next(self.losses) * batch.supervised, dtype=torch.float64)


def _batch() -> StepBatch:
    batch = batch_from_sequences(torch.arange(9).view(1, 9), eos_id=3, document_mask=False)
    return StepBatch([batch, batch], 0.1)


@pytest.mark.parametrize("gpu", [False, True])
def test_only_the_counted_steps_are_timed_and_metered_and_on_a_gpu_nothing_waits_between_them(monkeypatch, gpu):
    training = Planned([100.0, 1.0, 2.0, 4.0], [5.0, 4.0, 3.0, 2.5], [])
    device = stand_in(monkeypatch, "cuda" if gpu else "cpu", now=staticmethod(training.time), is_accelerator=gpu)
    training.log = device.calls
    given = {"meter": FakeMeter([10.0], training.time), "device": device_of(CUDA if gpu else CPU), "started": 0.0}
    taken = take_steps(training, [_batch()] * 4, warmup=1, **given)
    assert taken["step_ms"] == pytest.approx([1000, 2000, 4000])
    assert taken["train_loss"] == [5.0, 4.0, 3.0, 2.5]
    assert taken["joules"] == pytest.approx(70)
    assert (taken["joules_method"], taken["joules_reason"]) == ("fake counter", None)
    if gpu:
        assert device.calls == ["step", "synchronise", "mark", *["step", "mark"] * 3, "synchronise"]
    with pytest.raises(ArithmeticError, match="step 2 of 3 was nan"):
        take_steps(Planned([1.0] * 3, [5.0, math.nan, 3.0], []), [_batch()] * 3, warmup=1, **given)


@pytest.mark.parametrize(
    ("changes", "counted", "reason"),
    [
        ({}, 245.0, None),
        ({"seconds": 4.9}, None, "took 4.9 s, .* raise --steps to 12"),
        ({"seconds": 4.9, "on_gpu": False}, 245.0, None),
        ({"method": None}, None, "^no counter here$"),
        ({"joules": None}, None, "^no counter here$"),
        ({"dropped": 1}, None, "negative or above the power cap"),
    ],
)
def test_joules_count_where_the_counter_was_read_over_long_enough_else_there_is_a_reason(changes, counted, reason):
    given = {"joules": 245.0, "method": "counter", "absent": "no counter here", "on_gpu": True, "seconds": 5.0,
             "steps": 10, "dropped": 0}  # fmt: skip
    found = counted_joules(**(given | changes))
    assert found["joules"] == counted
    assert found["joules_reason"] is reason is None or re.search(reason, found["joules_reason"])


def test_batches_are_cut_into_steps_with_the_rate_of_the_schedule_over_all_of_them(tmp_path):
    mine = parts(tmp_path, "schedule.warmup=0.5", "optim.lr=0.25")
    machine = Machine(CPU, "fp32", 2, Ranks(1, 0, 0, 1))
    batches = [SimpleNamespace(to=lambda device, name=name: f"{name} on {device}") for name in range(9)]
    steps = step_batches(mine, machine, batches, 4)
    assert [step.batches for step in steps] == [[f"{2 * i} on cpu", f"{2 * i + 1} on cpu"] for i in range(4)]
    schedule = CosineSchedule(warmup=0.5)
    assert [step.learning_rate for step in steps] == [0.25 * schedule.factor(n, 4) for n in (1, 2, 3, 4)]
    assert steps[1].learning_rate == 0.25


def test_a_step_counts_its_micro_batches_together():
    batch = _batch()
    # eight inputs of which the fourth ends a document and predicts nothing; each sees those before it and itself
    assert (batch.tokens, batch.supervised, batch.attention_pairs) == (16, 14, 2 * 36)


def test_the_hash_of_the_tokens_knows_every_id_and_their_order():
    def batch(*ids):
        return batch_from_sequences(torch.tensor([ids]), eos_id=3, document_mask=False)

    first, second, last_label = batch(0, 1, 2), batch(4, 5, 6), batch(4, 5, 7)
    known = tokens_hash([StepBatch([first], 0.1), StepBatch([second], 0.1)])
    assert known == tokens_hash([StepBatch([first, second], 0.2)])
    assert known != tokens_hash([StepBatch([second, first], 0.1)])
    assert known != tokens_hash([StepBatch([first, last_label], 0.1)])
