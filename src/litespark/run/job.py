"""One job of `train.py`: how it ends, in which exit code, and an error of all its processes is printed once."""

import atexit
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import litespark.run.composing  # noqa: F401 – puts our checks into Hydra, also where `main` is called by itself
from litespark.launch import Ranks, started_together
from litespark.parent import when_parent_ends
from litespark.run.command_line import ordered
from litespark.run.sweep import JOBS, Job, table, telling
from litespark.run.targets import ConfigError, raised_in_own_code
from litespark.terminal import decide_streams, flush

# saved and asked to be continued: EX_TEMPFAIL of sysexits.h
STOPPED_AND_SAVED = 75
# stopped before there was anything to save: 128 + SIGINT, as shells count
CTRL_C = 130
FAILED = 1
# how long a rank leaves the word to rank 0, which meets most errors too; then its launcher has ended this process
_AFTER_RANK_0_SECONDS = 15.0
_FULL_ERROR = "HYDRA_FULL_ERROR"
_WITH_TRACEBACKS = os.environ.get(_FULL_ERROR) == "1"


def start(main: Callable[[], object]) -> None:
    """Check the command and call Hydra's `main`; an error that is no bug is one message of one process."""
    decide_streams()
    atexit.register(flush)
    JOBS.clear()  # of an earlier command in this process
    try:
        ranks = started_together(os.environ)
    except ValueError as error:
        sys.exit(f"ValueError: {error}")
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        # torchrun was killed, or got a signal that it does not pass on; the parts of a run save at this one
        when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ[_FULL_ERROR] = "1"  # or Hydra would print a traceback of its own code and end the process
    try:
        sys.argv[1:] = ordered(sys.argv[1:])
        main()
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if _WITH_TRACEBACKS or raised_in_own_code(error):
            raise
        _fail_once(ranks, _message_of(error))
    finally:
        if (jobs := table()) is not None:
            print(jobs, flush=True)


def _message_of(error: BaseException) -> str:
    """An error that came of settings below hydra, or of Hydra's flags."""
    if isinstance(error, HydraException | ConfigError):
        return str(error).strip()
    writable = "set paths.logs, or what is set below hydra, to a folder that can be written"
    advice = writable if isinstance(error, OSError) else "correct what is set below hydra, or leave it out"
    return f"Hydra cannot go on: {type(error).__name__}: {str(error).partition(chr(10))[0]}; {advice}"


def run_job(config: DictConfig) -> str:
    """Train as `config` says; returns the run's folder. A mistake of the user's is one short message and exit code 1, a
    bug keeps its traceback."""
    try:
        ranks = Ranks.from_environment(str(OmegaConf.select(config, "strategy.name")))
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        if sweep and ranks.world_size > 1:
            alone = [word for word in sys.argv[1:] if not word.startswith("strategy=")]
            _fail_once(
                ranks,
                f"ConfigError: got a sweep and {ranks.world_size} processes started by {ranks.launcher}, expected one "
                "process: processes join for one run; start each run by itself, or sweep with one process:\n  "
                + shlex.join(["python", "train.py", *alone, "strategy=single"]),
            )
        from litespark.callbacks.signals import take_no_echoes
        from litespark.run.train import USER_ERRORS, Interrupted, train
    except KeyboardInterrupt:
        sys.exit(CTRL_C)
    except ValueError as error:
        raise CompactHydraException(f"{type(error).__name__}: {error}") from error
    take_no_echoes()
    if sweep:
        JOBS.append(Job(telling(HydraConfig.get().overrides.task)))
    try:
        return str(train(config))
    except KeyboardInterrupt as stop:
        if ranks.rank == 0:
            print(*(stop.args or ("Stopped before the first step.",)), file=sys.stderr)
        sys.exit(CTRL_C)
    except Interrupted:
        sys.exit(STOPPED_AND_SAVED)
    except USER_ERRORS as error:
        message = f"{type(error).__name__}: {error}"
        if JOBS:
            JOBS[-1].error = message
        if raised_in_own_code(error) or _WITH_TRACEBACKS:  # its author needs the line
            raise
        if not sweep:
            _fail_once(ranks, message)
        logging.getLogger(__name__).error("job failed: %s", error)  # the others go on, Hydra shows the first failure
        raise CompactHydraException(message) from error


def _fail_once(ranks: Ranks, message: str) -> NoReturn:
    """End with `message`; of several ranks with the same one, the first speaks for all."""
    if ranks.rank > 0:
        time.sleep(_AFTER_RANK_0_SECONDS)
        message = f"rank {ranks.rank}: {message}"
    if place := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        # torchrun shows it at the end of its own lines
        about = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        Path(place).write_text(json.dumps({"message": about}))
    else:
        print(message, file=sys.stderr, flush=True)
    sys.exit(FAILED)
