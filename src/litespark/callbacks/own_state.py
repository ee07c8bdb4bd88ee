"""What callbacks of the user's own put into a checkpoint has to be such that a resume may read it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

_PLAIN = (
    str,
    bytes,
    int,
    float,
    bool,
    complex,
    type(None),
    torch.Tensor,
    torch.nn.Parameter,
    torch.dtype,
    torch.device,
)


class OwnState(Callback):
    """Leaves out of a checkpoint the state of callbacks that holds other things than tensors and plain values.

    Checkpoints are read with `weights_only`; with such a state in it none could be resumed from.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = list(callbacks)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("callbacks", {})
        for callback in self.callbacks:
            foreign = _foreign(states.get(callback.state_key))
            if foreign is not None:
                del states[callback.state_key]
                log.warning(
                    "the state of %s is not saved: it holds a %s, and a checkpoint takes tensors, numbers, texts, and "
                    "lists and dicts of them; a resume starts without it",
                    type(callback).__name__,
                    foreign,
                )


def _foreign(value: Any) -> str | None:
    """The name of the first class within `value` that a checkpoint does not take."""
    if type(value) in (dict, OrderedDict):
        inner: Sequence[Any] = [*value, *value.values()]
    elif type(value) in (list, tuple):
        inner = value
    else:
        return None if type(value) in _PLAIN else type(value).__name__
    return next((found for each in inner if (found := _foreign(each)) is not None), None)
