"""The device that a benchmark measures on."""

from __future__ import annotations

import torch

from litespark.experiment.config import ConfigError


def device_for(accelerator: str) -> torch.device:
    """The device that `trainer.accelerator` (auto, cpu, cuda) means on this machine.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=cuda: got no CUDA device on this machine, expected one to measure on")
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
