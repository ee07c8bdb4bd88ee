"""What is shown of an error that Hydra meets outside of a job: one message, since a traceback of its code helps nobody.

Importing this module puts it into Hydra's place for its own; an error in a job is left to Hydra.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

import hydra._internal.utils
from hydra._internal.utils import run_and_report  # were it gone, this fails rather than pass
from hydra.errors import CompactHydraException, HydraException
from omegaconf.errors import OmegaConfBaseException

# of which code an error is that of a job
JOBS: set[CodeType] = set()


def message_of(error: BaseException) -> str:
    """An error that came of settings below hydra, or of Hydra's flags, in one line."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, HydraException):
        return "\n".join(lines)
    if isinstance(error, OSError):
        return f"OSError: {lines[0]}; set paths.logs, or what is set below hydra, to a folder that can be written"
    kind = "" if isinstance(error, OmegaConfBaseException | ValueError) else f"{type(error).__name__}: "
    reason = lines[0] if str(error).strip() else str(traceback.extract_tb(error.__traceback__)[-1].line)
    return f"Hydra cannot go on: {kind}{reason}; python train.py --cfg hydra shows its settings, correct or leave out"


def _reported(func: Callable[[], Any]) -> Any:
    def with_message() -> Any:
        try:
            return func()
        except Exception as error:
            compact = isinstance(error, CompactHydraException)
            in_job = any(frame.f_code in JOBS for frame, _ in traceback.walk_tb(error.__traceback__))
            if os.environ.get("HYDRA_FULL_ERROR") == "1" or (in_job and not compact):
                raise
            print(error if compact else message_of(error), file=sys.stderr)
            if compact and isinstance(error.__cause__, OmegaConfBaseException):
                print(error.__cause__, file=sys.stderr)
            sys.exit(1)

    return run_and_report(with_message)


hydra._internal.utils.run_and_report = _reported
