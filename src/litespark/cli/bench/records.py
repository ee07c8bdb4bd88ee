"""Where a benchmark's record goes: below `logs/`, or with `--publish` into `results/`, whose page is then renewed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from litespark.cli.configs import repository, tell

Output = Annotated[Path | None, Option(help="Folder of records; logs/bench")]
Publish = Annotated[bool, Option("--publish", help="Write the record and its page into results/")]


def recording(context: typer.Context, output: Path | None, publish: bool) -> dict[str, Any]:
    """For every benchmark: the command to reproduce it, the folder of its record, and a function for its messages.

    Raises:
        typer.BadParameter: the arguments name two folders.
    """
    if output is not None and publish:
        raise typer.BadParameter("got --output and --publish, expected one of the two")
    folder = output or repository() / ("results" if publish else "logs/bench")
    return {"command": ["litespark", *context.obj], "output": folder, "say": tell}


def show(publish: bool, tables: Sequence[Any], path: Path, figure: Any = None, *, complete: bool = True) -> None:
    """Print the tables of a record, write its figure beside it, and where it was published the page of results anew."""
    from litespark.reports.plots import save
    from litespark.reports.table import text

    print(text(tables))
    print(f"record: {path}" + ("" if figure is None else f", picture: {save(figure, path.with_suffix('.png')).name}"))
    if publish:
        from litespark.reports.marks import write_documents

        for page in write_documents(repository()):
            print(f"page: {page}")
    if not complete:
        print("not all rounds are there: the same command continues")
