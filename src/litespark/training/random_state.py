"""The state of all random generators of a process, for a resume that goes on bit by bit."""

import random
from typing import Any

import numpy as np
import torch

from litespark.device import device_of


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators of Python, NumPy and PyTorch (host and `device`), as tensors and plain values."""
    version, values, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(values), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "device": device_of(device).random_state(),
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["device"] is not None:
        device_of(device).set_random_state(state["device"])
