"""The command `litespark`: prepare, verify, train, measure, look, export and check, with the overrides of train.py.

Each command imports what it needs when it runs, so that help and small commands answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from litespark.cli.bench import BENCHES
from litespark.cli.command import Command
from litespark.cli.compiling import KERNELS
from litespark.cli.finished_runs import EXPORT, GENERATE, REPORT
from litespark.cli.preparing import PREPARE
from litespark.cli.results import RESULTS
from litespark.cli.settings import SETTINGS
from litespark.cli.training import TRAIN, VERIFY_RESUME, train
from litespark.cli.verifying import VERIFY
from litespark.terminal import decide_streams, flush

USAGE_ERROR = 2
COMMANDS = {
    "train": TRAIN,
    "prepare": PREPARE,
    "verify": VERIFY,
    "report": REPORT,
    "results": RESULTS,
    "export": EXPORT,
    "generate": GENERATE,
    "verify-resume": VERIFY_RESUME,
    "kernels": KERNELS,
    "settings": SETTINGS,
} | {f"bench {name}": bench for name, bench in BENCHES.items()}


class UsageError(Exception):
    """The words of a command are not what it takes."""


class _Parser(argparse.ArgumentParser):
    """Complains in one line; the usage of a command can be long."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


# what a shell reports of a process that SIGINT ended
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for what a user can mend or a check that failed, 2 for usage."""
    from litespark.threads import decide_threads

    decide_threads()  # before a command imports torch
    decide_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else USAGE_ERROR
    length = 2 if words[0] == "bench" else 1  # that one has commands of its own
    name, rest = " ".join(words[:length]), words[length:]
    command = COMMANDS.get(name)
    if command is None:
        if name in ("bench", "bench -h", "bench --help"):
            print(_listed("usage: litespark bench WHAT …", _benches()))
            return USAGE_ERROR if name == "bench" else 0
        known = _benches() if length == 2 else COMMANDS
        print(f"litespark: there is no command {name!r}; choose one of: {', '.join(known)}", file=sys.stderr)
        return USAGE_ERROR
    try:
        if name == "train" and not {"-h", "--help"} & set(rest):
            return train(rest)  # flags are Hydra's there
        parser = _Parser(prog=f"litespark {name}", description=command.purpose)
        command.add_arguments(parser)
        status = command.run(_parsed(parser, rest))
        return status if flush() else 1
    except BrokenPipeError:
        flush()
        return 1
    except UsageError as error:
        print(f"litespark {name}: {error}; litespark {name} --help shows what it takes", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"litespark {name}: stopped", file=sys.stderr)
        return INTERRUPTED
    except _mendable() as error:
        print(f"litespark {name}: {str(error).strip()}", file=sys.stderr)
        return 1


def _parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The arguments of a command; a setting that is written as a flag is answered as train.py does."""
    options, unknown = parser.parse_known_intermixed_args(words)
    flags = [word for word in unknown if word.startswith("-")]
    near = flags and get_close_matches(
        flags[0].split("=")[0], parser.format_usage().replace("]", " ").split(), cutoff=0.8
    )
    if flags and hasattr(options, "overrides") and not near:
        from litespark.experiment.command_line import check_overrides

        check_overrides(words[words.index(flags[0]) :])
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _help() -> str:
    return _listed("usage: litespark COMMAND …", COMMANDS) + "\n\nlitespark COMMAND --help shows the arguments of one."


def _benches() -> dict[str, Command]:
    return {name: command for name, command in COMMANDS.items() if name.startswith("bench ")}


def _listed(usage: str, commands: dict[str, Command]) -> str:
    width = max(map(len, commands))
    return f"{usage}\n\n" + "\n".join(f"  {name:{width}}  {each.purpose}" for name, each in commands.items())


def _mendable() -> tuple[type[Exception], ...]:
    """Errors that are shown as one message: mistakes in settings and files. Anything else is a bug and keeps its
    traceback. Evaluated only when something was raised; the rooms are asked only where a command loaded them."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    run = sys.modules.get("litespark.experiment.run")
    return (ValueError, OSError, HydraException, OmegaConfBaseException, *(run.USER_ERRORS if run else ()))
