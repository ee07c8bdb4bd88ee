"""The command `litespark`: prepare, verify, train, measure, look, export and check, with the overrides of train.py.

Each command imports what it needs when it runs, so that help and small commands answer at once.
"""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.exceptions import TyperException

from litespark.cli import documents, finished_runs, ops, planning, preparing, training
from litespark.cli.bench import BENCHES
from litespark.terminal import decide_streams, flush

USAGE_ERROR = 2
# what a shell reports of a process that SIGINT ended
INTERRUPTED = 130
_PLAIN: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}

app = typer.Typer(add_completion=False, help="Train language models with few joules per token.", **_PLAIN)
for _command in (
    training.train, preparing.prepare, ops.verify, finished_runs.report, documents.results, finished_runs.export,
    finished_runs.generate, training.verify_resume, planning.plan, ops.kernels, documents.settings,
):  # fmt: skip
    app.command()(_command)
_benches = typer.Typer(help="Measure; with --publish the record goes into results/.", **_PLAIN)
for _bench in BENCHES:
    _benches.command()(_bench)
app.add_typer(_benches, name="bench")

_COMMAND: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = {name: command for name, command in _COMMAND.commands.items() if name != "bench"} | {
    f"bench {name}": command for name, command in _COMMAND.commands["bench"].commands.items()
}
"""Name -> the command, with its parameters."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for what a user can mend or a check that failed, 2 for usage."""
    from litespark.light_torchmetrics import import_lightly
    from litespark.threads import decide_threads

    decide_threads()  # before a command imports torch
    import_lightly()
    decide_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = " ".join(["litespark", *words[: 2 if words[:1] == ["bench"] else 1]])
    try:
        if words[:1] == ["train"] and not {"-h", "--help"} & set(words):
            return training.run_script(words[1:])  # flags are Hydra's there
        status = _COMMAND.main(args=words, prog_name="litespark", standalone_mode=False, obj=words)
        return int(status or 0) if flush() else 1
    except BrokenPipeError:
        flush()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print(f"{name}: stopped", file=sys.stderr)
        return INTERRUPTED
    except TyperException as error:
        return _usage(error, words)
    except _mendable() as error:
        print(f"{name}: {str(error).strip()}", file=sys.stderr)
        return 1


def _usage(error: Any, words: list[str]) -> int:
    """Answer words that are not what a command takes; a setting that is written as a flag as train.py does."""
    message, command = error.format_message(), error.ctx.command
    if message.startswith("Usage:"):  # of a command without a word
        print(message)
        return USAGE_ERROR
    flag = getattr(error, "option_name", None)
    near = get_close_matches(flag or "", getattr(error, "possibilities", None) or [], cutoff=0.8)
    if flag and not near and "overrides" in {parameter.name for parameter in command.params}:
        from litespark.run.command_line import check_overrides

        at = next((index for index, word in enumerate(words) if word.partition("=")[0] == flag), len(words))
        try:
            check_overrides(words[at:])
        except ValueError as refused:
            print(f"{error.ctx.command_path}: {refused}", file=sys.stderr)
            return 1
    line = " ".join(message.split())
    print(f"{error.ctx.command_path}: {line}; {error.ctx.command_path} --help shows what it takes", file=sys.stderr)
    return USAGE_ERROR


def _mendable() -> tuple[type[Exception], ...]:
    """Errors that are shown as one message: mistakes in settings and files. Anything else is a bug and keeps its
    traceback. Evaluated only when something was raised; the rooms are asked only where a command loaded them."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    run = sys.modules.get("litespark.run.train")
    return (ValueError, OSError, HydraException, OmegaConfBaseException, *(run.USER_ERRORS if run else ()))
