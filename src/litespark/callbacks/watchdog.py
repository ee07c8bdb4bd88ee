"""Ends a run of several ranks in which one hangs: every rank writes where it stands, and none waits for a collective.

A rank that hangs holds up all others at the next collective. So each watches itself, and all find no progress at about
the same time. The one that is not in a collective is the one to look at.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.phases import Phases
from litespark.callbacks.steps import StepCallback
from litespark.metrics.energy import Phase
from litespark.training.module import TrainingModule

_FAILED = 1


class Watchdog(StepCallback):
    """Watches the micro-batches after the first step, in which kernels are compiled; not validations and checkpoints.

    Args:
        seconds: after so many without one the process writes the stacks of its threads to stderr and ends.
    """

    def __init__(self, seconds: float, rank: int, phases: Phases) -> None:
        super().__init__()
        self.seconds, self.rank = seconds, rank
        self._moved: float | None = None  # when there last was progress; None: nothing is watched
        self._training = False
        self._step = 0
        phases.listen(self._entered)

    def _entered(self, before: Phase, after: Phase) -> None:
        self._training = after == "train"
        self._note()

    def _note(self) -> None:
        if self._moved is not None:
            self._moved = time.monotonic()

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._step = module.steps_taken
        if self._moved is None:
            self._moved = time.monotonic()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def on_train_batch_start(self, *_: Any) -> None:
        self._note()

    def on_after_backward(self, *_: Any) -> None:
        self._note()

    def on_train_end(self, *_: Any) -> None:
        self._moved = None

    def on_exception(self, *_: Any) -> None:
        self._moved = None

    def _watch(self) -> None:
        while (moved := self._moved) is not None:
            if self._training and time.monotonic() - moved > self.seconds:
                self._end()
            time.sleep(min(1.0, self.seconds / 10))

    def _end(self) -> None:
        message = (
            f"rank {self.rank}: no progress for {self.seconds:g} s (strategy.hang_seconds) after step {self._step}. "
            "Ranks whose stacks end in a collective wait for another one; look at the rank whose stack ends elsewhere"
        )
        print(f"{message}; this one's:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun shows it at the end of its own lines
            about = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
            Path(place).write_text(json.dumps({"message": about}))
        sys.stderr.flush()
        os._exit(_FAILED)
