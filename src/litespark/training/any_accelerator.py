"""What Lightning asks of an accelerator, answered by PyTorch: Lightning 2.6.6 has CPU, CUDA, MPS and TPU of its own."""

from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator

from litespark.device import device_count, device_of, find


class AnyAccelerator(Accelerator):
    """The accelerator that PyTorch finds on this machine."""

    def setup_device(self, device: torch.device) -> None:
        device_of(device).use()

    def teardown(self) -> None:
        device_of(find("auto")).empty_cache()

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}  # the throughput monitor reads the memory

    @staticmethod
    def parse_devices(devices: Any) -> int:
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [find("auto", index) for index in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        return device_count()

    @staticmethod
    def is_available() -> bool:
        return device_count() > 0

    @staticmethod
    def name() -> str:
        return "any"


def lightning_accelerator(device: torch.device) -> str | Accelerator:
    """What the Trainer takes for `device`: Lightning's own where it has one."""
    return device.type if device.type in ("cpu", "cuda", "mps") else AnyAccelerator()


def why_no_ddp(device: torch.device) -> str | None:
    """Why Lightning's DDP cannot run there: in 2.6.6 it opens a stream of CUDA on every accelerator; None: it can."""
    if device.type in ("cpu", "cuda"):
        return None
    return (
        f"strategy=ddp: got a device of type {device.type}, for which Lightning has none; set strategy=fsdp or single"
    )
