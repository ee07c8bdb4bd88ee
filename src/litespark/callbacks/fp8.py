"""Watches what the casts of fp8 lose, logs it by block, and moves layers that lose too much."""

import logging
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.steps import StepCallback
from litespark.metrics import names
from litespark.ops.fp8.adaptive import Adaptive, Shares
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear.state import Fp8State
from litespark.run.record_fp8 import Fp8MoveRecord, Fp8Record, Fp8SharesRecord
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
        self._readings = 0
        self._moves: list[Fp8MoveRecord] = []
        self._shares: dict[str, Fp8SharesRecord] = {}

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._record(module)

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        state, step = _fp8(module), module.steps_taken
        scaling = state.scaling
        next_counted = -(-self._since // scaling.sample_every) * scaling.sample_every
        if not self.due(module) or next_counted >= scaling.steps:  # nothing was counted since the last reading
            return
        self._since = scaling.steps
        shares = scaling.read(module.mesh)
        self._readings += 1
        for tensor, lost in shares.items():
            self._note(tensor, step, *lost)
        for move in self.policy.observe(step, shares):
            self._moves.append(Fp8MoveRecord(**asdict(move)))
            if move.after != move.before:
                state.linears[move.linear].move(None if move.after == "bf16" else move.after)
            if module.mesh.is_first:
                log.log(logging.INFO if move.reason == "return" else logging.WARNING, "fp8: %s", move.described())
        record = self._record(module)
        log_everywhere(module, _metrics(shares) | {names.FP8_LINEARS: record.in_fp8 / record.linears})

    def _note(self, tensor: str, step: int, overflow: float, underflow: float) -> None:
        before = self._shares.get(tensor)
        highest = (before.overflow_highest, before.underflow_highest) if before else (0.0, 0.0)
        highest = max(overflow, highest[0]), max(underflow, highest[1])
        self._shares[tensor] = Fp8SharesRecord(tensor, step, overflow, underflow, *highest)

    def _record(self, module: TrainingModule) -> Fp8Record:
        assert module.model is not None
        config, adaptive = self.config, self.config.adaptive
        places = list(map(self.policy.place, _fp8(module).linears))
        self.record = Fp8Record(
            recipe=config.recipe,
            gradients=config.gradients,
            simulated=config.simulate,
            backend=self.backend,
            kinds=list(config.linears),
            layers=len(module.builder.spec.units(module.model)),
            bf16_first=config.bf16_first,
            bf16_last=config.bf16_last,
            linears=len(places),
            in_fp8=sum(place != "bf16" for place in places),
            fallback=adaptive.fallback,
            overflow_bound=adaptive.overflow_bound,
            underflow_bound=adaptive.underflow_bound,
            readings=self._readings,
            moves=list(self._moves),
            shares=list(self._shares.values()),
        )
        return self.record

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
