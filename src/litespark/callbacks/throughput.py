"""Tokens/s, step times, MFU, HFU and memory, a window at a time; and the losses of the window beside them.

A window closes at the log interval with the only synchronisation of the loop; step times come from marks in the
device's own work that are read then.
"""

import copy
from typing import Any

import lightning.pytorch as pl
import torch

from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.phases import Phase, Phases
from litespark.callbacks.steps import StepCallback
from litespark.device import device_of
from litespark.metrics import names
from litespark.metrics.energy import WITHIN_A_STEP
from litespark.metrics.mfu import MfuMeter
from litespark.metrics.throughput import Throughput, ThroughputMeter
from litespark.training.module import TrainingModule


class ThroughputMonitor(StepCallback):
    """Counts steps and tokens and logs a window of them at each log interval; warm-up is in no step time."""

    def __init__(self, *, mfu: MfuMeter, log_every: int, warmup_steps: int, phases: Phases) -> None:
        super().__init__(log_every)
        self.mfu = mfu
        self.phases = phases
        self.meter = ThroughputMeter(warmup_steps)
        self.peak_memory_gib: float | None = None
        self._device = device_of(torch.device("cpu"))
        # between steps; of the steps since the last synchronisation their counts and what they waited for data
        self._marks: list[Any] = []
        self._pending: list[tuple[tuple[int, int, int], float]] = []
        self._begun_seconds = 0.0  # of the step under way, before phases within it
        self._waited = 0.0
        self._before_validation: Phase = "idle"

    # ---------------------------------------------------------------- hooks

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._device = device_of(module.device)
        self._device.reset_peak()
        self.mfu.devices = self.meter.devices = module.mesh.world_size
        # batches that were fetched ahead of the first step were not waited for in a step
        self._waited = _seconds_waited(trainer)
        self.phases.listen(self._phase_changed)
        self._device.synchronise()
        self.phases.enter("train")

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._mark()
        before, self._waited = self._waited, _seconds_waited(trainer)
        self._pending.append((module.last_step, self._waited - before))
        if not self.due(module):
            return
        self._decide()
        window = self.meter.close_window()
        if (peak := self._device.peak_bytes()) is not None:
            fullest = max(module.mesh.gather(peak)) / 2**30
            self.peak_memory_gib = max(self.peak_memory_gib or 0.0, fullest)  # a probe begins the count anew
        log_everywhere(module, _progress(module) | self._described(window) | module.read_window())
        module.check_finite()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._device.synchronise()
        self._before_validation = self.phases.current
        self.phases.enter("evaluate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self._device.synchronise()
        self.phases.enter(self._before_validation)
        log_everywhere(pl_module, pl_module.validation | _progress(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:  # type: ignore[override]
        self._device.synchronise()
        self.phases.enter("idle")
        if self.mfu.probe is not None:
            pl_module.mesh.all(True)  # at once: the ranks of a host share its processor, in the probe as in a step
            self.mfu.probe_again()
            self._device.reset_peak()  # the memory of the probe is none of the run's

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.phases.enter("idle")

    def state_dict(self) -> dict[str, Any]:
        return self._with_open_window().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.meter.load_state_dict(state_dict)

    # ---------------------------------------------------------------- windows

    def summary(self) -> Throughput:
        """The whole run, the open window included: a run that is stopped between two closings took those steps too."""
        return self._with_open_window().summary()

    def _with_open_window(self) -> ThroughputMeter:
        if not self.meter.open_steps:  # the time since the last step belongs to no step
            return self.meter
        meter = copy.deepcopy(self.meter)
        meter.close_window()
        return meter

    def _described(self, window: Throughput) -> dict[str, float | None]:
        return {
            names.TOKENS_PER_SECOND: window.tokens_per_second,
            names.STEP_MS_MEDIAN: window.step_ms_median,
            names.STEP_MS_P95: window.step_ms_p95,
            names.DATA_WAIT_SHARE: window.data_wait_share,
            names.PEAK_MEMORY_GIB: self.peak_memory_gib,
        } | self.mfu.shares(window.tokens_per_second, window.attention_pairs_per_token)

    def _mark(self) -> None:
        if self._device.has_timer:
            self._marks.append(self._device.mark())

    def _decide(self) -> None:
        """Wait for the device, and give the steps since the last time to the meter."""
        self._device.synchronise()
        times: list[float | None] = [None] * len(self._pending)
        if self._device.has_timer:
            spans = [self._device.milliseconds(*pair) / 1e3 for pair in zip(self._marks, self._marks[1:], strict=False)]
            if self._pending:
                spans[0] += self._begun_seconds
                self._begun_seconds = 0.0
            times = [*spans[: len(self._pending)]]
            self._begun_seconds += sum(spans[len(self._pending) :])
        for ((tokens, _, pairs), waited), seconds in zip(self._pending, times, strict=True):
            self.meter.add_step(tokens, pairs, step_seconds=seconds, wait_seconds=waited)
        self._pending, self._marks = [], self._marks[-1:]

    def _phase_changed(self, before: Phase, after: Phase) -> None:
        if before == "train":
            if after in WITHIN_A_STEP:
                self._mark()
            self._decide()
            self.meter.pause()
        if after == "train":
            if before not in WITHIN_A_STEP:
                self._begun_seconds = 0.0
            self.meter.start()
            self._marks = []
            self._mark()


def _seconds_waited(trainer: pl.Trainer) -> float:
    """For batches, since the run began."""
    assert trainer.train_dataloader is not None
    return float(trainer.train_dataloader.wait_seconds)


def _progress(module: TrainingModule) -> dict[str, float | None]:
    return {names.PROGRESS_TOKENS: module.tokens_seen, names.PROGRESS_STEP: module.steps_taken}
