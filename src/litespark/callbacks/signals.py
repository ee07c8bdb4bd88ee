"""Ctrl-C, SIGTERM, SIGUSR1, SIGHUP and SIGQUIT: finish the step, save, and say how to continue.

A signal only sets a flag. At the end of the step all ranks agree on it, save, and leave together by raising
`Interrupted`. Another signal some seconds later ends the process at once.
"""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.steps import StepCallback
from litespark.training.module import TrainingModule

log = logging.getLogger(__name__)

# what people, schedulers and terminals send, and torchrun passes on (SIGUSR1 only if it is told to)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)
# torchrun passes on what the terminal has sent to every process already: one wish may arrive twice
ONE_WISH_SECONDS = 3.0
# this process has stopped and saved, and is on its way out
_saved = False


class Interrupted(Exception):
    """The run stopped because it was asked to; its state is saved. `time_over`: SIGUSR1 asked, on some rank, which
    schedulers are told to send before the end of a job's time; SIGTERM may as well be somebody's `scancel`."""

    def __init__(self, step: int, *, time_over: bool = False) -> None:
        super().__init__(f"stopped after step {step} and saved")
        self.step = step
        self.time_over = time_over


class StopOnSignal(StepCallback):
    """Turns the first signal into an orderly end of the run after the current step."""

    def __init__(self, checkpointer: Checkpointer) -> None:
        super().__init__()
        self.checkpointer = checkpointer
        self._time_over = False

    def setup(self, trainer: pl.Trainer, pl_module: TrainingModule, stage: str) -> None:  # type: ignore[override]
        # Lightning 2.6.6 would install its own SIGTERM handler now (it ends the run between micro-batches, saves
        # nothing, and broadcasts in whatever collective it interrupts), and read a device tensor back in every
        # micro-batch for it. Ours takes its place; Lightning's teardown puts back what was there before
        connector = trainer._signal_connector
        connector.register_signal_handlers = lambda: self._listen(connector, pl_module)  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _listen(self, connector: Any, module: TrainingModule) -> None:
        connector._original_handlers = connector._get_current_signal_handlers()

        def ask(number: int) -> None:
            module.stop_requested = True
            self._time_over = number == signal.SIGUSR1
            log.warning("got %s: stopping after this step; once more to stop at once", signal.Signals(number).name)

        _listen_for(ask)

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        # after the last step there is nothing to continue: the run ends as it would have
        if module.stop_agreed and not module.finished:
            self.checkpointer.save(trainer, module)
            global _saved
            _saved = True
            raise Interrupted(module.steps_taken, time_over=module.mesh.any(self._time_over))


@contextmanager
def stop_is_ctrl_c() -> Iterator[None]:
    """After the last step every signal is a KeyboardInterrupt; once there was one the handlers stay."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    asked = False

    def interrupt(number: int) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    _listen_for(interrupt)
    try:
        yield
    finally:
        if not asked:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen_for(wish: Callable[[int], None]) -> None:
    """Call `wish` at the first signal; another one some seconds later ends the process at once."""
    asked_at: float | None = None

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            wish(number)
        elif time.monotonic() - asked_at > ONE_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in SIGNALS:
        # nohup has SIGHUP ignored: the terminal may go, the run stays
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, ask)


def take_no_echoes() -> None:
    """Let no signal end the process between the save of a stop and its exit; before, signals act as they did.

    Ranks get their signals at different moments, and torchrun sends one to those that leave last. The handlers stay.
    """

    def outside(number: int, frame: FrameType | None) -> None:
        if not _saved:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, outside)
