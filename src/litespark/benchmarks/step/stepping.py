"""Training steps and their clock: the same for every variant.

Everything that a step needs lies on the device before the first one, so loading is not in the figures; and nothing in
a step waits for the device. On a GPU an event is recorded between steps, and the only synchronisations are one before
the counted steps and one after them.
"""

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
from litespark.metrics.energy_by_phase import EnergyByPhase, EnergyMeter
from litespark.run.config import Parts
from litespark.run.preflight import Machine

# the counter of a board refreshes about every 100 ms: less than this is no measurement
SHORTEST_GPU_SECONDS = 5.0


@dataclass(frozen=True)
class StepBatch:
    """The micro-batches of one optimizer step, on the device, and the learning rate of the schedule.

    It counts input tokens, labels that count, and the (query, key) pairs that the masks allow.
    """

    batches: list[TokenBatch]
    learning_rate: float

    @property
    def tokens(self) -> int:
        return sum(batch.token_count for batch in self.batches)

    @property
    def supervised(self) -> int:
        return sum(batch.supervised_count for batch in self.batches)

    @property
    def attention_pairs(self) -> int:
        return sum(batch.attention_pairs for batch in self.batches)


class Training(Protocol):
    """A model with its optimizer, ready for the first step; `detail` is what was chosen while it was built."""

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


def timed_steps(training: Training, batches: Sequence[StepBatch], device: Device) -> tuple[list[Tensor], list[float]]:
    """The sum of nats of each step, and its milliseconds by the device; waits for it after all of them."""
    sums, marks = [], [device.mark()]
    for batch in batches:
        sums.append(training.step(batch))
        marks.append(device.mark())
    device.synchronise()
    return sums, [device.milliseconds(before, after) for before, after in itertools.pairwise(marks)]


def counted_joules(
    joules: float | None, *, method: str | None, absent: str, on_gpu: bool, seconds: float, steps: int, dropped: int
) -> dict[str, Any]:
    """The joules of counted steps where they are a measurement, else why not: fields of a `RoundRecord`.

    Args:
        joules: of the counted steps; None: the counter was not read at both ends.
        method: how they were read; None: not at all, for the reason `absent`.
        dropped: readings that were impossible.
    """
    reason = None
    if method is not None and on_gpu and seconds < SHORTEST_GPU_SECONDS:
        reason = (
            f"the counted steps took {seconds:.1f} s, and the counter is read over no less than "
            f"{SHORTEST_GPU_SECONDS:g} s; raise --steps to {math.ceil(1.1 * steps * SHORTEST_GPU_SECONDS / seconds)}"
        )
    elif method is not None and dropped:
        reason = "a difference of the counter was negative or above the power cap, and was dropped"
    elif method is None or joules is None:
        reason = absent
    return {"joules": None if reason else joules, "joules_method": method, "joules_reason": reason}


def take_steps(
    training: Training, batches: Sequence[StepBatch], *, warmup: int, meter: EnergyMeter, device: Device, started: float
) -> dict[str, Any]:
    """Fields of a `RoundRecord` of all steps, of which all but the first `warmup` are timed and metered.

    Args:
        started: seconds since the epoch when the process was.
    """
    sums = [training.step(batch) for batch in batches[:warmup]]
    device.synchronise()
    before = meter.device_state()
    by_phase = EnergyByPhase(meter)
    began = time.time()
    by_phase.switch("train")
    counted, step_ms = timed_steps(training, batches[warmup:], device)
    by_phase.switch("idle")
    after = meter.device_state()
    losses = [float(total) / batch.supervised for total, batch in zip(sums + counted, batches, strict=True)]
    for index, loss in enumerate(losses, 1):
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss of step {index} of {len(losses)} was {loss}")
    energy = counted_joules(
        by_phase.totals.train_joules,
        method=meter.method,
        absent=meter.reason or "the counter could not be read at both ends",
        on_gpu=device.is_accelerator,
        seconds=sum(step_ms) / 1e3,
        steps=len(step_ms),
        dropped=by_phase.totals.dropped_readings,
    )
    return {
        "step_ms": step_ms,
        "train_loss": losses,
        "before": before,
        "after": after,
        "seconds_before": max(0.0, began - started),
        **energy,
    }
