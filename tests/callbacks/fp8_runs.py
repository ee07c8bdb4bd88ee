"""Small runs in simulated fp8, of which a test plants what their casts lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from litespark.callbacks.fp8 import Fp8Monitor
from litespark.ops.fp8.settings import AdaptiveConfig, Fp8Config
from litespark.run.record import DataRecord, ModelRecord, RunRecord
from litespark.training.optim import AdamWConfig
from tests.callbacks.fake_time import rows_of
from tests.metrics.records.hand_made import make_record
from tests.training.small_runs import LENGTH, SmallRun, small_run, training_module

LAYERS = 2
LOUD = "blocks.1.mlp.gate_up"


def fp8_config(*, recipe: str = "delayed", **adaptive: Any) -> Fp8Config:
    """Every step counts; two readings above a bound move a layer, three bring it back.

    Tensors are so small that a value or two that saturate are more than the usual bound.
    """
    changes = {"sample_every": 1, "patience": 2, "return_after": 3, "overflow_bound": 0.05} | adaptive
    return Fp8Config(recipe=recipe, simulate=True, adaptive=AdaptiveConfig(**changes))  # type: ignore[arg-type]


def new_record() -> RunRecord:
    return make_record(
        segments=[],
        model=ModelRecord("small", 10, 8, 48.5, 50.0, LENGTH),
        data=DataRecord("text", "hash", 31, 1000, 100, 3.5),
    )


class Plant(pl.Callback):
    """Changes the scale of the input of `LOUD` before chosen steps; what the model computes stays as it was.

    Args:
        factors: step, counted from 0 -> factor.
        channels: of the input; None: all.
    """

    def __init__(self, factors: dict[int, float], channels: int | None = 1) -> None:
        self.factors = factors
        self.channels = channels

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        factor = self.factors.get(pl_module.steps_taken)
        if factor is not None:
            block = pl_module.model.blocks[1]
            with torch.no_grad():
                block.mlp_norm.weight[: self.channels] *= factor
                block.mlp.gate_up.weight[:, : self.channels] /= factor


class Fp8Run:
    """A run of `steps` steps under the real Trainer with an `Fp8Monitor`."""

    def __init__(
        self,
        folder: Path,
        config: Fp8Config,
        *,
        steps: int,
        plant: Plant | None = None,
        after: Any = (),
        **settings: Any,
    ) -> None:
        self.record = new_record()
        # so slow that what is planted stays
        optimizer = AdamWConfig(lr=1e-15)
        self.module = training_module(steps=steps, rows=2, optimizer=optimizer, fp8=config, num_layers=LAYERS)
        self.monitor = Fp8Monitor(config, self.record, settings.get("log_every", 1))
        planted = [] if plant is None else [plant]
        callbacks = [*planted, self.monitor, *after]
        self.run: SmallRun = small_run(folder, self.module, callbacks=callbacks, **settings)

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.run)

    def moves(self) -> list[tuple[int, str, str, str]]:
        """Step, layer, from, to."""
        assert self.record.fp8 is not None
        return [(move.step, move.linear, move.before, move.after) for move in self.record.fp8.moves]
