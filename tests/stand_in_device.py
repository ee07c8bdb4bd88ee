"""A device that is none: CPU tensors behind a `Device` that has what a test gives it and writes down what is asked."""

import time
from typing import Any, ClassVar

import torch

from litespark import device
from litespark.device import Device


class StandIn(Device):
    """The class holds what was asked and what is answered, since whoever asks makes a new one.

    Attributes:
        calls: what was asked, in order.
        now: its own clock, in seconds.
        peak, allocated: bytes; None: nobody counts.
    """

    is_accelerator = True
    name = "Stand-in 9000"
    calls: ClassVar[list[str]] = []
    now: Any = staticmethod(lambda: time.perf_counter())
    peak: int | None = None
    allocated: int | None = None

    def use(self) -> None:
        self.calls.append("use")

    def synchronise(self) -> None:
        self.calls.append("synchronise")

    def empty_cache(self) -> None:
        self.calls.append("empty cache")

    def allocated_bytes(self) -> int | None:
        return self.allocated

    def peak_bytes(self) -> int | None:
        self.calls.append("peak")
        return self.peak

    def reset_peak(self) -> None:
        self.calls.append("reset")

    def random_state(self) -> torch.Tensor | None:
        self.calls.append("random state")
        return torch.tensor([7])

    def set_random_state(self, state: torch.Tensor) -> None:
        self.calls.append(f"set random state {state.item()}")

    def mark(self) -> float:
        self.calls.append("mark")
        return float(self.now())


def stand_in(monkeypatch, kind: str = "cpu", **facts: Any) -> type[StandIn]:
    """Let every device that PyTorch calls `kind` be a stand-in with these attributes."""
    made = type("StandInOfATest", (StandIn,), {"calls": [], **facts})
    monkeypatch.setitem(device._KINDS, kind, made)
    return made
