"""What several commands share: the overrides of a config, options that are numbers, and the typed command."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from litespark.ranges import check_number

Overrides = Annotated[
    list[str],
    typer.Argument(
        metavar="OVERRIDE",
        default_factory=list,
        show_default=False,
        help="Settings as for train.py: experiment=NAME group=CHOICE key=value …",
    ),
]


def number(hint: Any, help: str) -> Any:
    """An option whose value has to be in the range of `hint`, such as `Count`; settings of a benchmark check theirs."""
    kind = hint.__origin__

    def parse(word: Any) -> Any:
        try:
            value = kind(word)
        except (ValueError, OverflowError):
            value = word
        try:
            check_number("", value, hint)
        except ValueError as error:
            raise typer.BadParameter(str(error).removeprefix(": ")) from None
        return value

    return typer.Option(parser=parse, metavar="NUMBER", help=help)


def repository() -> Path:
    from litespark.run import checkout

    return checkout.repository()


def composed_parts(overrides: Sequence[str]) -> Any:
    """The parts of a config, whose class is not imported before a command runs."""
    from litespark.run.composing import compose_parts

    return compose_parts(overrides)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
