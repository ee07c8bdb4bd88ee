"""What the full trainer costs over a bare PyTorch loop: the same model, batches and optimizer settings, interleaved.

The trainer (Lightning, callbacks, loggers) is built as a run builds it. After each of its steps it is held and the bare
loop takes one, so both see the same noise of the machine. A block is as many steps as a log interval, so that each
holds the closing of one window; the ratio is taken block by block. A few steps before the first are not counted.

The two losses are compared early, where only rounding can tell them apart, and at the end. In between, rounding grows
by orders of magnitude, as it does in any training at a high learning rate.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from litespark.benchmarks.loop.bare import BareLoop
from litespark.benchmarks.provenance import without_folders
from litespark.data.streaming import RowDataModule, build_data_module
from litespark.device import device_of
from litespark.experiment.build import Run, build_run, check_vocabulary
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.instruments import build_meter
from litespark.experiment.new_run import make
from litespark.experiment.preflight import Machine, preflight
from litespark.experiment.record import new_record, new_segment
from litespark.experiment.run import quieten
from litespark.launch import Ranks
from litespark.metrics.records.loop import LoopRecord, LossPair
from litespark.ranges import Repeats, check_number
from litespark.training.budget import BudgetConfig
from litespark.training.validation import validate

# validation batches that the losses are taken on
_LOSS_BATCHES = 4
_WARMUP_STEPS = 3


def bench_loop(parts: Parts, overrides: Sequence[str], *, blocks: int) -> LoopRecord:
    """Time the trainer and the bare loop, step by step in turns, in blocks of `trainer.log_every` steps.

    Budget, validation, checkpoints and report are set aside: what they cost is not a cost per step. Everything is
    written to a temporary folder.

    Args:
        parts: the config to run.
        overrides: what the user gave, for the record.
        blocks: how many are counted.

    Raises:
        ValueError: `blocks` below 1, a resume, several processes, or what any run refuses.
    """
    check_number("--blocks", blocks, Repeats)
    if parts.resume is not None:
        raise ConfigError(f"resume={parts.resume}: the benchmark starts from the initial weights; leave it out")
    steps = _WARMUP_STEPS + parts.trainer.log_every * blocks
    with tempfile.TemporaryDirectory(prefix="litespark-bench-") as temporary:
        parts = dataclasses.replace(
            parts,
            name="bench",
            logs=Path(temporary),
            # one step more than is measured: with the last one the trainer saves a checkpoint
            budget=BudgetConfig(steps=steps + 1),
            trainer=dataclasses.replace(parts.trainer, validate_every=None),
            callbacks=dataclasses.replace(parts.callbacks, checkpoint_every=None, report=False, sample_prompt=None),
        )
        ranks = Ranks.from_environment()
        machine = preflight(parts, ranks)
        if ranks.world_size > 1 or parts.strategy.name != "single":
            raise ConfigError(
                f"got {ranks.world_size} processes and strategy={parts.strategy.name}, expected one process and "
                "strategy=single: the bare loop knows no other"
            )
        if machine.precision == "fp8":
            raise ConfigError(
                f"precision={parts.precision}: got fp8, expected bf16 or fp32: the bare loop renews no scales after a "
                "step; set precision=bf16"
            )
        run = _build(parts, machine, overrides)
        interleaved = _Interleaved(parts, machine, run, steps)
        run.trainer.fit(run.module, run.data)
        run.energy.meter.close()
    return interleaved.record(run, overrides)


def _build(parts: Parts, machine: Machine, overrides: Sequence[str]) -> Run:
    """The run as `litespark.experiment.run` makes it, up to the first step."""
    quieten()
    data = build_data_module(parts.data, seed=parts.seed)
    check_vocabulary(parts, data.manifest)
    meter = build_meter(machine.device)
    folder = make(parts, list(overrides))
    record = new_record(parts, machine, folder, data.manifest, meter, list(overrides))
    return build_run(parts, machine, folder, data, record, new_segment(machine, 0, list(overrides)), meter)


class _Interleaved:
    """Holds the trainer after each of its first `steps` steps and lets the bare loop take one."""

    def __init__(self, parts: Parts, machine: Machine, run: Run, steps: int) -> None:
        self.parts = parts
        self.machine = machine
        self.run = run
        self.steps = steps
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.early_steps = _WARMUP_STEPS + parts.trainer.log_every
        self.losses: list[LossPair] = []
        self._started = 0.0
        # the module's own hooks come after those of all callbacks, so the time of a step holds their work
        self._module_starts = run.module.on_train_start
        run.module.on_train_start = self._start  # type: ignore[method-assign]
        run.module.on_train_batch_end = self._batch_ended  # type: ignore[method-assign]

    def _start(self) -> None:
        self._module_starts()
        model = self.run.module.model
        assert model is not None
        # a loader of its own over the same rows in the same order
        self.data: RowDataModule = build_data_module(self.parts.data, seed=self.parts.seed)
        self.bare = BareLoop(
            model,
            iter(self.data.train_dataloader()),
            optimizer=self.parts.optim,
            schedule=self.parts.schedule,
            budget=self.run.module.budget,
            accumulate=self.machine.accumulate,
            device=self.machine.device,
            precision=self.machine.precision,
        )
        self._started = self._now()

    def _batch_ended(self, outputs: object, batch: object, batch_idx: int) -> None:
        steps = self.run.module.steps_taken
        if steps == len(self.trainer_seconds) or steps > self.steps:  # between micro-batches, or after the measurement
            return
        self.trainer_seconds.append(self._now() - self._started)
        with self.run.phases.during("idle"):
            started = self._now()
            self.bare.take(1)
            self.bare_seconds.append(self._now() - started)
            if steps in (self.early_steps, self.steps):
                self._compare(steps)
        self._started = self._now()

    def _compare(self, steps: int) -> None:
        model = self.run.module.model
        assert model is not None
        self.losses.append(LossPair(steps, self._loss(model), self._loss(self.bare.model)))

    def _loss(self, model: nn.Module) -> float:
        """Nats per supervised token on the first validation batches."""
        module, batches = self.run.module, itertools.islice(self.data.val_dataloader(), _LOSS_BATCHES)
        return validate(model, module.task, module.metrics, batches, module.device, self.bare.autocast)["loss"]

    def _now(self) -> float:
        device_of(self.machine.device).synchronise()
        return time.perf_counter()

    def record(self, run: Run, overrides: Sequence[str]) -> LoopRecord:
        """The figures, without the warm-up."""
        known = run.recorder.record
        blocks = len(self.trainer_seconds) // self.parts.trainer.log_every
        command = without_folders(["litespark", "bench", "loop", *overrides, "--blocks", str(blocks)])
        return LoopRecord(
            dataclasses.replace(known.provenance, command=command, overrides=without_folders(overrides)),
            model=known.model,
            data=known.data.name,
            rows_per_step=self.parts.trainer.global_batch_size,
            micro_batches_per_step=self.machine.accumulate,
            steps_per_block=self.parts.trainer.log_every,
            trainer_step_ms=[1e3 * seconds for seconds in self.trainer_seconds[_WARMUP_STEPS:]],
            bare_step_ms=[1e3 * seconds for seconds in self.bare_seconds[_WARMUP_STEPS:]],
            early=self.losses[0],
            final=self.losses[-1],
        )
