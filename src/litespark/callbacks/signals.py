"""Ctrl-C, SIGTERM and SIGUSR1: finish the step, save, and say how to continue.

A signal only sets a flag. At the end of the step all ranks agree on it over the host group, save, and leave together
by raising `Interrupted`. Another signal some seconds later ends the process at once, as it would without us.
"""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from litespark.callbacks.checkpoint import Checkpointer

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# torchrun passes on what the terminal has sent to every process already: one wish may arrive twice
ONE_WISH_SECONDS = 3.0


class Interrupted(Exception):
    """The run stopped because it was asked to; its state is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step} and saved")
        self.step = step


class StopOnSignal(Callback):
    """Turns the first signal into an orderly end of the run after the current step."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # Lightning 2.6.6 installs its own SIGTERM handler after on_fit_start (it ends the run between micro-batches and
        # saves nothing), and in distributed runs reads a device tensor back in every micro-batch for it; ours replaces
        # both, and Lightning puts back what was there before the two of them
        pl_module.stop_requested |= trainer.received_sigterm
        trainer._signal_connector.received_sigterm = False
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

        asked_at: float | None = None

        def ask(number: int, frame: FrameType | None) -> None:
            nonlocal asked_at
            pl_module.stop_requested = True
            if asked_at is None:
                asked_at = time.monotonic()
                log.warning("got %s: stopping after this step; once more to stop at once", signal.Signals(number).name)
            elif time.monotonic() - asked_at > ONE_WISH_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in SIGNALS:
            signal.signal(number, ask)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # after the last step there is nothing to continue: the run ends as it would have
        if pl_module.stop_agreed and not pl_module.finished:
            self.checkpointer.save(trainer, pl_module)
            raise Interrupted(pl_module.steps_taken)
