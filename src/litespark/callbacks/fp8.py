"""Watches what the casts of fp8 lose, logs it by block, and moves layers that lose too much."""

import logging
from dataclasses import asdict, replace
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.steps import StepCallback
from litespark.metrics import names
from litespark.metrics.records.base import parse
from litespark.ops.fp8.adaptive import Adaptive, Shares
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear.state import Fp8State
from litespark.run.record_fp8 import Fp8Record, Fp8SharesRecord
from litespark.training.fp8 import state_of
from litespark.training.module import TrainingModule

log = logging.getLogger(__name__)


class Fp8Monitor(StepCallback):
    """Reads, logs and records what is lost, and applies what the policy decides, to a model whose `fp8` is set.

    Stands after the callback that closes windows, which waits for the device anyway, and before those that save
    checkpoints and write the record: a resume then finds the layers where the next step needs them.
    """

    def __init__(self, config: Fp8Config, backend: str | None, log_every: int) -> None:
        super().__init__(log_every)
        self.config = config
        self.backend = backend
        self.record: Fp8Record | None = None  # from the first step on
        self.policy = Adaptive(config.adaptive, config.recipe)
        self._since = 0  # steps that were finished at the last reading

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        begun, before = self._begun(module), self.record
        if before is not None:  # of the checkpoint
            begun = replace(begun, readings=before.readings, moves=before.moves, shares=before.shares)
        self.record = begun

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        state, step = _fp8(module), module.steps_taken
        scaling = state.scaling
        next_counted = -(-self._since // scaling.sample_every) * scaling.sample_every
        if not self.due(module) or next_counted >= scaling.steps:  # nothing was counted since the last reading
            return
        self._since = scaling.steps
        shares = scaling.read(module.mesh)
        moves = self.policy.observe(step, shares)
        for move in moves:
            if move.after != move.before:
                state.linears[move.linear].move(None if move.after == "bf16" else move.after)
            if module.mesh.is_first:
                log.log(logging.INFO if move.reason == "return" else logging.WARNING, "fp8: %s", move.described())
        assert self.record is not None
        self.record = replace(
            self.record,
            in_fp8=self._in_fp8(module),
            readings=self.record.readings + 1,
            moves=[*self.record.moves, *moves],
            shares=_highest(self.record.shares, step, shares),
        )
        log_everywhere(module, _metrics(shares) | {names.FP8_LINEARS: self.record.in_fp8 / self.record.linears})

    def _begun(self, module: TrainingModule) -> Fp8Record:
        assert module.model is not None
        config, adaptive = self.config, self.config.adaptive
        return Fp8Record(
            recipe=config.recipe,
            gradients=config.gradients,
            simulated=config.simulate,
            backend=self.backend,
            kinds=list(config.linears),
            layers=len(module.builder.spec.units(module.model)),
            bf16_first=config.bf16_first,
            bf16_last=config.bf16_last,
            linears=len(_fp8(module).linears),
            in_fp8=self._in_fp8(module),
            fallback=adaptive.fallback,
            overflow_bound=adaptive.overflow_bound,
            underflow_bound=adaptive.underflow_bound,
        )

    def _in_fp8(self, module: TrainingModule) -> int:
        return sum(self.policy.place(linear) != "bf16" for linear in _fp8(module).linears)

    def state_dict(self) -> dict[str, Any]:
        assert self.record is not None
        return {"policy": self.policy.state_dict(), "since": self._since, "record": asdict(self.record)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.policy.load_state_dict(state_dict["policy"])
        self._since, self.record = state_dict["since"], parse(Fp8Record, state_dict["record"])


def _highest(before: list[Fp8SharesRecord], step: int, shares: Shares) -> list[Fp8SharesRecord]:
    """The shares of each tensor at its last reading, and the highest of all."""
    known = {record.tensor: record for record in before}
    for tensor, lost in shares.items():
        old = known.get(tensor)
        highest = lost if old is None else map(max, lost, (old.overflow_highest, old.underflow_highest))
        known[tensor] = Fp8SharesRecord(tensor, step, *lost, *highest)
    return list(known.values())


def _metrics(shares: Shares) -> dict[str, float | None]:
    """The highest share of each kind over the tensors of a block, "blocks.3"."""
    values: dict[str, float | None] = {}
    for tensor, lost in shares.items():
        for kind, share in zip((names.FP8_OVERFLOW, names.FP8_UNDERFLOW), lost, strict=True):
            name = names.of_block(kind, ".".join(tensor.split(".")[:2]))
            values[name] = max(share, values.get(name) or 0.0)
    return values


def _fp8(module: TrainingModule) -> Fp8State:
    assert module.model is not None
    state = state_of(module.model)
    assert state is not None
    return state
