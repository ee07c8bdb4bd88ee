"""Watches what the casts of fp8 lose, logs it by block, and moves layers that lose too much.

What a step's casts lose is counted on the device; the counts are read at the log interval, where the loop waits for
the device anyway, and on all ranks together, so that all decide alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.callbacks.interval import LogInterval
from litespark.callbacks.metrics_logger import log_everywhere
from litespark.metrics import names
from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.run_fp8 import Fp8MoveRecord, Fp8PlaceRecord, Fp8Record, Fp8SharesRecord
from litespark.ops.fp8.adaptive import (
    Adaptive,
    Move,
    Shares,
    counted_between,
    recipe_at,
    share_in_fp8,
    worst_by_block,
)
from litespark.ops.fp8.settings import Fp8Config

log = logging.getLogger(__name__)


class Fp8Monitor(Callback):
    """Reads, logs and records what is lost, and applies what the policy decides, to a model whose `fp8` is set.

    In the list of callbacks it stands after the one that closes windows, which waits for the device, and before those
    that save checkpoints and write the record: a resume then finds the layers where the next step needs them.

    Args:
        config: of fp8.
        record: of the run; its field `fp8` is filled.
        log_every: steps between two readings; those without a step that counted are left out.

    Attributes:
        policy: which decides.
    """

    def __init__(self, config: Fp8Config, record: RunRecord, log_every: int) -> None:
        self.config = config
        self.record = record
        self.policy = Adaptive(config.adaptive, config.recipe)
        self.interval = LogInterval(log_every)
        # steps that were finished at the last reading
        self._since = 0
        self._readings = 0
        self._moves: list[Fp8MoveRecord] = []
        self._shares: dict[str, Fp8SharesRecord] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.interval.start(pl_module)
        # checkpoints of the model and of the policy belong to the same step
        assert all(
            self.policy.place(name) == (linear.recipe or "bf16") for name, linear in pl_module.model.fp8.linears.items()
        )
        self._record(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not (self.interval.step_ended(pl_module) and self.interval.due(pl_module)):
            return
        scaling = pl_module.model.fp8.scaling
        if counted_between(self._since, scaling.steps, scaling.sample_every):
            self._since = scaling.steps
            self._read(trainer, pl_module)

    def _read(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """One reading; a collective that waits for the device."""
        state, step = pl_module.model.fp8, pl_module.steps_taken
        shares = state.scaling.read()
        self._readings += 1
        for tensor, lost in shares.items():
            self._note(tensor, step, *lost)
        for move in self.policy.observe(step, shares):
            self._moves.append(_move_record(move))
            if move.after != move.before:
                state.move(move.linear, recipe_at(move.after))
            if trainer.is_global_zero:
                log.log(logging.INFO if move.reason == "return" else logging.WARNING, "fp8: %s", move.described())
        in_fp8 = share_in_fp8(map(self.policy.place, state.linears))
        log_everywhere(trainer, _metrics(shares) | {names.FP8_LINEARS: in_fp8}, step)
        self._record(pl_module)

    def _note(self, tensor: str, step: int, overflow: float, underflow: float) -> None:
        before = self._shares.get(tensor)
        self._shares[tensor] = Fp8SharesRecord(
            tensor,
            step,
            overflow,
            underflow,
            overflow_highest=max(overflow, before.overflow_highest if before else 0.0),
            underflow_highest=max(underflow, before.underflow_highest if before else 0.0),
        )

    def _record(self, pl_module: Any) -> None:
        config, adaptive = self.config, self.config.adaptive
        places = {name: self.policy.place(name) for name in pl_module.model.fp8.linears}
        self.record.fp8 = Fp8Record(
            recipe=config.recipe,
            gradients=config.gradients,
            simulated=config.simulate,
            backend=next((op.used for op in self.record.ops if op.op == "fp8"), None),
            kinds=list(config.linears),
            layers=pl_module.model.config.num_layers,
            bf16_first=config.bf16_first,
            bf16_last=config.bf16_last,
            linears=len(places),
            in_fp8=sum(place != "bf16" for place in places.values()),
            fallback=adaptive.fallback,
            overflow_bound=adaptive.overflow_bound,
            underflow_bound=adaptive.underflow_bound,
            readings=self._readings,
            moved=[Fp8PlaceRecord(name, place) for name, place in places.items() if place != config.recipe],
            moves=list(self._moves),
            shares=list(self._shares.values()),
        )

    # ---------------------------------------------------------------- checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.state_dict(),
            "since": self._since,
            "readings": self._readings,
            "moves": [asdict(move) for move in self._moves],
            "shares": [asdict(shares) for shares in self._shares.values()],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.policy.load_state_dict(state_dict["policy"])
        self._since, self._readings = state_dict["since"], state_dict["readings"]
        self._moves = [Fp8MoveRecord(**values) for values in state_dict["moves"]]
        self._shares = {values["tensor"]: Fp8SharesRecord(**values) for values in state_dict["shares"]}


def _metrics(shares: Shares) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for block, (overflow, underflow) in worst_by_block(shares).items():
        values[names.of_block(names.FP8_OVERFLOW, block)] = overflow
        values[names.of_block(names.FP8_UNDERFLOW, block)] = underflow
    return values


def _move_record(move: Move) -> Fp8MoveRecord:
    values: Mapping[str, Any] = asdict(move)
    return Fp8MoveRecord(**values)
