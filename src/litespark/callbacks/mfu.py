"""Tokens/s, step times, MFU, HFU and memory, a window at a time; and the losses of the window beside them.

A window closes at the log interval with the only synchronisation of the loop. On GPUs step times come from events that
are read then, so that no step waits for the device.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from litespark.callbacks.interval import LogInterval
from litespark.callbacks.metrics_logger import log_everywhere
from litespark.callbacks.phases import Phase, Phases
from litespark.metrics import names
from litespark.metrics.hardware import PeakFlops
from litespark.metrics.throughput import (
    ThroughputMeter,
    ThroughputSummary,
    ThroughputWindow,
    impossible_rate,
    possible,
    utilisation,
)
from litespark.models.config import Recompute
from litespark.models.flops import hardware_flops_per_token, model_flops_per_token
from litespark.models.spec import ModelSpec

log = logging.getLogger(__name__)

# so that on a machine that stays busy the probes take little of its time
SECONDS_BETWEEN_PROBES = 30.0


@dataclass(frozen=True)
class Rates:
    """What one device can do, for the ratios.

    Attributes:
        peak: the vendor's dense bf16 peak, or the one from the settings; None where it is not known.
        peak_in_use: of the precision that computes (it bounds what can be true); None where it is not known.
        measured: matmul FLOP/s measured on this device in the precision of the run; None where it was not measured.
        most_of_measured: the largest share of `measured` that can be true.
    """

    peak: PeakFlops | None
    peak_in_use: PeakFlops | None
    measured: float | None
    most_of_measured: float = 1.0


class ThroughputMonitor(Callback):
    """Counts steps and tokens and logs a window of them at each log interval.

    Args:
        model: for its FLOPs per token.
        seq_len: S, for the full-attention convention.
        recompute: for the hardware FLOPs.
        rates: what one device can do.
        log_every: steps in a window.
        warmup_steps: steps that are not in the step time statistics.
        phases: told and asked what the run is doing.
        probe: measures the matmul rate again; None: it is not measured.

    Attributes:
        measured_peak: the best that a probe reached in this process. Whatever else runs on the machine lowers a probe,
            so there is another one at the end, and in between where the run came out faster than the last.
    """

    def __init__(
        self,
        *,
        model: ModelSpec,
        seq_len: int,
        recompute: Recompute,
        rates: Rates,
        log_every: int,
        warmup_steps: int,
        phases: Phases,
        probe: Callable[[], float] | None = None,
    ) -> None:
        self.probe = probe
        self.measured_peak = rates.measured
        self.model = model
        self.seq_len = seq_len
        self.recompute: Recompute = recompute
        self.rates = rates
        self.phases = phases
        self.meter = ThroughputMeter(warmup_steps)
        self.interval = LogInterval(log_every)
        self.peak_memory_gib: float | None = None
        self._events: list[torch.cuda.Event] = []
        self._pending: list[tuple[int, int, int, float]] = []
        self._step_started = 0.0
        self._waited = 0.0
        self._before_validation: Phase = "idle"
        self._warned = False
        self._probed = time.monotonic()
        self._device = torch.device("cpu")
        self._world_size = 1

    # ---------------------------------------------------------------- hooks

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._device = pl_module.device
        self._world_size = self.meter.devices = trainer.world_size
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self.interval.start(pl_module)
        assert trainer.train_dataloader is not None
        # batches that were fetched ahead of the first step were not waited for in a step
        self._waited = trainer.train_dataloader.wait_seconds
        self.phases.listen(self._phase_changed)
        self._synchronise()
        self.phases.enter("train")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.interval.step_ended(pl_module):
            return
        assert trainer.train_dataloader is not None
        self._end_step(pl_module.last_step, trainer.train_dataloader.wait_seconds)
        if self.interval.due(pl_module):
            self._synchronise()
            window = self._close(pl_module.host_group)
            self._doubt_the_probe(window)
            values = {names.PROGRESS_TOKENS: pl_module.tokens_seen, names.PROGRESS_STEP: pl_module.steps_taken}
            log_everywhere(trainer, values | self.describe(window) | pl_module.read_window(), pl_module.steps_taken)
            pl_module.check_finite()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._synchronise()
        self._before_validation = self.phases.current
        self.phases.enter("evaluate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._synchronise()
        self.phases.enter(self._before_validation)
        log_everywhere(trainer, {**pl_module.validation, names.PROGRESS_TOKENS: pl_module.tokens_seen,
                                 names.PROGRESS_STEP: pl_module.steps_taken}, pl_module.steps_taken)  # fmt: skip

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._synchronise()
        self.phases.enter("idle")
        if self.probe is not None:
            trainer.strategy.barrier()  # the ranks of a host share its processor, in the probe as in a step
            self._probe_again(self.probe)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.phases.enter("idle")

    def state_dict(self) -> dict[str, Any]:
        return self._with_open_window().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.meter.load_state_dict(state_dict)

    # ---------------------------------------------------------------- windows

    def summary(self) -> ThroughputSummary:
        """The whole run, the open window included: a run that is stopped between two closings took those steps too."""
        return self._with_open_window().summary()

    def _with_open_window(self) -> ThroughputMeter:
        if not self.meter.open_steps:  # the moments since the last step are nobody's
            return self.meter
        meter = copy.deepcopy(self.meter)
        meter.close_window()
        return meter

    def describe(self, window: ThroughputWindow) -> dict[str, float | None]:
        """The metrics of a closed window; None where something was not measured."""
        values: dict[str, float | None] = {
            names.TOKENS_PER_SECOND: window.tokens_per_second,
            names.STEP_MS_MEDIAN: window.step_ms_median,
            names.STEP_MS_P95: window.step_ms_p95,
            names.DATA_WAIT_SHARE: window.data_wait_share,
            names.PEAK_MEMORY_GIB: self.peak_memory_gib,
        }
        if window.attention_pairs_per_token is not None and window.tokens_per_second is not None:
            values |= self.utilisations(window.tokens_per_second, window.attention_pairs_per_token)
        return values

    def utilisations(
        self, tokens_per_second: float, mean_keys: float, devices: float | None = None
    ) -> dict[str, float | None]:
        """MFU (C and F), HFU and MFU against the measured peak at this speed; None without a peak, or above it.

        `devices` is how many made that speed, in the mean; None: those of this process.
        """
        devices = devices or self._world_size
        causal, full, hardware = self._flops(tokens_per_second, mean_keys)
        peak = None if self.rates.peak is None else self.rates.peak.flops
        if impossible := impossible_rate(hardware, 1.0, devices, self.rates.peak_in_use):
            peak = None
            if not self._warned:
                self._warned = True
                log.warning("%s: MFU is left out", impossible)
        # the full square counts work that is not done, and may be more than the device can do where the rest is not
        beyond = impossible_rate(full, 1.0, devices, self.rates.peak_in_use)
        measured = utilisation(causal, 1.0, devices, self.measured_peak)
        return {
            names.MFU_CAUSAL: utilisation(causal, 1.0, devices, peak),
            names.MFU_FULL: None if beyond else utilisation(full, 1.0, devices, peak),
            names.HFU_CAUSAL: utilisation(hardware, 1.0, devices, peak),
            names.MFU_MEASURED_PEAK: possible(measured, self.rates.most_of_measured),
            names.MEASURED_PEAK_FLOPS: self.measured_peak,
        }

    def _flops(self, tokens_per_second: float, mean_keys: float) -> tuple[float, float, float]:
        """FLOP/s of all devices at this speed: of the model with causal and with full attention, of the hardware."""
        return (
            model_flops_per_token(self.model, mean_keys) * tokens_per_second,
            model_flops_per_token(self.model, self.seq_len) * tokens_per_second,
            hardware_flops_per_token(self.model, mean_keys, self.recompute) * tokens_per_second,
        )

    def _doubt_the_probe(self, window: ThroughputWindow) -> None:
        """Probe again where the steps were faster than the probe: something else ran during that one."""
        speed, keys = window.tokens_per_second, window.attention_pairs_per_token
        # several ranks would have to probe together, and each has a clock of its own
        if self.probe is None or speed is None or keys is None or self._world_size > 1:
            return
        share = utilisation(self._flops(speed, keys)[0], 1.0, 1, self.measured_peak)
        waited = time.monotonic() - self._probed
        if share is not None and share > self.rates.most_of_measured and waited >= SECONDS_BETWEEN_PROBES:
            self._probe_again(self.probe)

    def _probe_again(self, probe: Callable[[], float]) -> None:
        with self.phases.during("idle"):
            try:
                self.measured_peak = max(self.measured_peak or 0.0, probe())
            except torch.OutOfMemoryError:
                log.warning("the matmul peak was not measured again: the run left no memory for it")
        if self._device.type == "cuda":  # the memory of the probe is none of the run's
            torch.cuda.reset_peak_memory_stats(self._device)
        self._probed = time.monotonic()

    def _end_step(self, counts: tuple[int, int, int], waited: float) -> None:
        """Note a finished step; its duration on a GPU is known only after the next synchronisation."""
        since, self._waited = waited - self._waited, waited
        if self._device.type == "cuda":
            self._mark()
            self._pending.append((*counts, since))
        else:
            now = time.perf_counter()
            self.meter.add_step(*counts, step_seconds=now - self._step_started, wait_seconds=since)
            self._step_started = now

    def _close(self, host_group: Any) -> ThroughputWindow:
        self._read_events()
        window = self.meter.close_window()
        if self._device.type == "cuda":
            fullest = max(host_group.gather(torch.cuda.max_memory_allocated(self._device))) / 2**30
            self.peak_memory_gib = max(self.peak_memory_gib or 0.0, fullest)  # a probe begins the count anew
        return window

    def _read_events(self) -> None:
        """Give the steps since the last synchronisation to the meter, with the times between their events."""
        for index, (tokens, supervised, pairs, waited) in enumerate(self._pending):
            seconds = self._events[index].elapsed_time(self._events[index + 1]) / 1e3
            self.meter.add_step(tokens, supervised, pairs, step_seconds=seconds, wait_seconds=waited)
        self._pending = []
        self._events = self._events[-1:]

    def _mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def _phase_changed(self, before: Phase, after: Phase) -> None:
        if before == "train":
            if self._device.type == "cuda":
                self._synchronise()
                self._read_events()
            self.meter.pause()
        if after == "train":
            self.meter.start()
            self._step_started = time.perf_counter()
            if self._device.type == "cuda":
                self._events = []
                self._mark()

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
