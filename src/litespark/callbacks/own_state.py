"""What callbacks of the user's own put into a checkpoint has to be such that a resume may read it."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


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
            if foreign := _foreign(states.get(callback.state_key)):
                del states[callback.state_key]
                log.warning(
                    "the state of %s is not saved: it holds %s, and a checkpoint takes tensors, numbers, texts, and "
                    "lists and dicts of them; a resume starts without it",
                    type(callback).__name__,
                    ", ".join(foreign),
                )


def _foreign(state: Any) -> list[str]:
    """What PyTorch would refuse to read again of `state`, or why it cannot be saved."""
    saved = io.BytesIO()
    try:
        torch.save(state, saved)
    except Exception as error:  # noqa: BLE001 (whatever an object's own pickling raises)
        return [f"what cannot be pickled ({error})"]
    saved.seek(0)
    return torch.serialization.get_unsafe_globals_in_checkpoint(saved)
