"""What is noted of steps while they are taken, the same for every variant: times, places, losses, memory, energy."""

import itertools
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from litespark.benchmarks.step.stepping import counted_joules
from litespark.device import device_of
from litespark.metrics.energy_by_phase import EnergyByPhase
from litespark.metrics.meters import choose_meter

# of Linux: 5 begins the count of a process's resident peak anew
_CLEAR_PEAK = Path("/proc/self/clear_refs"), "5"


class Watch:
    """Notes the steps of one process, of which the first `warmup` are not counted.

    `begin` comes before the first step, `end_step` after each.

    Attributes:
        losses: of each step, () each; who takes the steps adds them.
    """

    def __init__(self, device: torch.device, warmup: int) -> None:
        self.device = device_of(device)
        self.warmup = warmup
        self.losses: list[Tensor] = []
        self._meter = choose_meter(device)
        self._energy: EnergyByPhase | None = None
        self._ends: list[float] = []
        self._rollouts = [0.0]
        self._places = [0]
        self._memory_before: int | None = None

    def watch(self, model: nn.Module) -> None:
        """Count the places of its forward passes from now on."""

        def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if torch.is_grad_enabled():
                self._places[-1] += (inputs[0] if inputs else named["input_ids"]).numel()

        model.register_forward_pre_hook(before, with_kwargs=True)

    def begin(self) -> None:
        self.device.reset_peak()
        file, word = _CLEAR_PEAK
        with suppress(OSError):
            file.write_text(word)
        self._memory_before = self._held()

    @contextmanager
    def rollout(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.device.synchronise()
        self._rollouts[-1] += time.perf_counter() - began

    def end_step(self) -> None:
        """A step has been taken, which the device may still compute."""
        self.device.synchronise()
        self._ends.append(time.perf_counter())
        if len(self._ends) == self.warmup:
            self._energy = EnergyByPhase(self._meter)
            self._energy.switch("train")
        self._rollouts.append(0.0)
        self._places.append(0)

    def figures(self, optimizer: Any) -> dict[str, Any]:
        """Fields of a `TaskRound`, right after the last step."""
        assert self._energy is not None
        self._energy.switch("idle")
        seconds = [after - before for before, after in itertools.pairwise(self._ends[self.warmup - 1 :])]
        peak, before = self._peak(), self._memory_before
        rollouts = self._rollouts[self.warmup : -1]
        joules = counted_joules(
            self._energy.totals.train_joules,
            method=self._meter.method,
            absent=self._meter.reason or "the counter could not be read at both ends",
            on_gpu=self.device.is_accelerator,
            seconds=sum(seconds),
            steps=len(seconds),
            dropped=self._energy.totals.dropped_readings,
        )
        return {
            "seconds": seconds,
            "rollout_seconds": rollouts if any(rollouts) else [],
            "places": sum(self._places[self.warmup : -1]),
            "losses": [float(loss) for loss in self.losses],
            "memory_bytes": None if peak is None or before is None else max(0, peak - before),
            "peak_bytes": peak,
            "optimizer_bytes": state_bytes(optimizer),
            **joules,
        }

    def _held(self) -> int | None:
        if self.device.is_accelerator:
            return self.device.allocated_bytes()
        return int(psutil.Process().memory_info().rss)

    def _peak(self) -> int | None:
        if self.device.is_accelerator:
            return self.device.peak_bytes()
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def state_bytes(optimizer: Any) -> int:
    """Bytes of the tensors that an optimizer keeps of its parameters."""
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return sum(value.numel() * value.element_size() for value in states)
