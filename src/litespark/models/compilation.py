"""`torch.compile` for a model, in units that leave names of weights and hooks of wrappers as they are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

CompileMode = Literal["none", "block", "model"]


def compile_model(
    model: nn.Module, blocks: Sequence[nn.Module], mode: CompileMode, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Compile `forward` of each block by itself, or of the whole model, in place.

    Parameters keep their names, and hooks stay outside: by these FSDP2 gathers a block's weights. A graph break inside
    a block is an error.
    """
    units: dict[str, list[nn.Module]] = {"none": [], "block": list(blocks), "model": [model]}
    for unit in units[mode]:
        unit.forward = torch.compile(unit.forward, fullgraph=mode == "block", backend=backend)


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Within it `model` runs as it is written: for sequences of ever new lengths, each of which would be compiled."""
    compiled = {unit: vars(unit).pop("forward") for unit in model.modules() if "forward" in vars(unit)}
    try:
        yield
    finally:
        for unit, forward in compiled.items():
            unit.forward = forward
