"""Training steps and their clock: the same for every variant.

Everything that a step needs lies on the device before the first one, so loading is not in the figures; and nothing in
a step waits for the device. On a GPU an event is recorded between steps, and the only synchronisations are one before
the counted steps and one after them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from litespark.data.batch import TokenBatch
from litespark.device import Device
from litespark.metrics.energy import EnergyByPhase, EnergyMeter
from litespark.metrics.records.origin import DeviceState
from litespark.run.config import Parts
from litespark.run.preflight import Machine

# the counter of a board refreshes about every 100 ms: less than this is no measurement
SHORTEST_GPU_SECONDS = 5.0


@dataclass(frozen=True)
class StepBatch:
    """The micro-batches of one optimizer step, on the device, and the learning rate of the schedule."""

    batches: list[TokenBatch]
    learning_rate: float

    @property
    def tokens(self) -> int:
        """Input tokens."""
        return sum(batch.token_count for batch in self.batches)

    @property
    def supervised(self) -> int:
        """Labels that count."""
        return sum(batch.supervised_count for batch in self.batches)

    @property
    def attention_pairs(self) -> int:
        """(query, key) pairs that the masks allow."""
        return sum(batch.attention_pairs for batch in self.batches)


class Training(Protocol):
    """A model with its optimizer, ready for the first step.

    Attributes:
        recompute: `none`, `swiglu` or `full`.
        detail: what was settled while it was built.
    """

    model: Any
    recompute: str
    detail: str

    def step(self, batch: StepBatch) -> Tensor:
        """Forward, loss, backward, normalise, clip, optimizer. Returns the sum of nats, () on the device."""
        ...

    def held_out_loss(self, batches: Iterable[TokenBatch]) -> float:
        """Nats per supervised token over `batches`, which may lie on the host; uncompiled: it needs no speed."""
        ...


def step_batches(parts: Parts, machine: Machine, batches: Iterable[TokenBatch], steps: int) -> list[StepBatch]:
    """The first `steps` steps of a stream of micro-batches, on the device, each with its learning rate.

    The schedule runs over exactly these steps: over a run of billions of tokens every variant would stand still at the
    beginning of the warm-up, and equal losses would say nothing.
    """
    tokens = machine.accumulate * parts.data.micro_batch_size * parts.data.seq_len
    stream = iter(batches)
    return [
        StepBatch(
            [part.to(machine.device) for part in itertools.islice(stream, machine.accumulate)],
            parts.optim.lr * parts.schedule.factor((index + 1) * tokens, steps * tokens),
        )
        for index in range(steps)
    ]


def tokens_hash(batches: Iterable[StepBatch]) -> str:
    """Sixteen hex digits of the tokens and labels in their order; reads them from the device."""
    digest = hashlib.sha256()
    for batch in batches:
        for part in batch.batches:
            for ids in (part.tokens, part.labels):
                digest.update(ids.long().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class StepClock:
    """Marks between steps, in the work of a device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """A step ends here, and the next begins."""
        self._marks.append(self.device.mark())

    def milliseconds(self) -> list[float]:
        """Between one mark and the next; after a synchronisation."""
        return [self.device.milliseconds(before, after) for before, after in itertools.pairwise(self._marks)]


@dataclass(frozen=True)
class Joules:
    """Energy of the counted steps; without it the reason."""

    joules: float | None
    method: str | None
    reason: str | None


def counted_joules(
    joules: float | None, *, method: str | None, absent: str, on_gpu: bool, seconds: float, steps: int, dropped: int
) -> Joules:
    """The joules of counted steps where they are a measurement, else why not.

    Args:
        joules: of the counted steps; None: the counter was not read at both ends.
        method: how they were read; None: not at all, for the reason `absent`.
        absent: the meter's own reason.
        on_gpu: they are those of a board's counter.
        seconds, steps: of the counted steps together.
        dropped: readings that were impossible.
    """
    if method is None:
        return Joules(None, None, absent)
    if on_gpu and seconds < SHORTEST_GPU_SECONDS:
        enough = math.ceil(1.1 * steps * SHORTEST_GPU_SECONDS / seconds)
        reason = (
            f"the counted steps took {seconds:.1f} s, and the counter is read over no less than "
            f"{SHORTEST_GPU_SECONDS:g} s; raise --steps to {enough}"
        )
        return Joules(None, method, reason)
    if dropped:
        return Joules(None, method, "a difference of the counter was negative or above the power cap, and was dropped")
    if joules is None:
        return Joules(None, method, absent)
    return Joules(joules, method, None)


@dataclass(frozen=True)
class Measured:
    """What the steps came to, in the units of `RoundRecord`; `began`: the first counted one, since the epoch."""

    step_ms: list[float]
    train_loss: list[float]
    energy: Joules
    before: DeviceState | None
    after: DeviceState | None
    began: float


def take_steps(
    training: Training, batches: Sequence[StepBatch], *, warmup: int, meter: EnergyMeter, clock: StepClock
) -> Measured:
    """Take all steps; all but the first `warmup` of them are timed and metered.

    Raises:
        ArithmeticError: the loss of a step was not finite.
    """
    sums = [training.step(batch) for batch in batches[:warmup]]
    clock.device.synchronise()
    before = meter.device_state()
    by_phase = EnergyByPhase(meter)
    began = time.time()
    by_phase.switch("train")
    clock.mark()
    for batch in batches[warmup:]:
        sums.append(training.step(batch))
        clock.mark()
    clock.device.synchronise()
    by_phase.switch("idle")
    after = meter.device_state()
    step_ms = clock.milliseconds()
    losses = [float(total) / batch.supervised for total, batch in zip(sums, batches, strict=True)]
    for index, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of step {index} of {len(losses)} was {loss}")
    energy = counted_joules(
        by_phase.totals.train_joules,
        method=meter.method,
        absent=meter.reason or "the counter could not be read at both ends",
        on_gpu=clock.device.is_accelerator,
        seconds=sum(step_ms) / 1e3,
        steps=len(step_ms),
        dropped=by_phase.totals.dropped_readings,
    )
    return Measured(step_ms, losses, energy, before, after, began)


def held_out_loss(training: Training, batches: Iterable[TokenBatch]) -> float:
    """Nats per supervised token over `batches`.

    Raises:
        ArithmeticError: it is not finite.
    """
    loss = training.held_out_loss(batches)
    if not math.isfinite(loss):
        raise ArithmeticError(f"the held-out loss was {loss}")
    return loss
