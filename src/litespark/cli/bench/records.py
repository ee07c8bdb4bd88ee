"""Where a benchmark's record goes: below `logs/`, or with `--publish` into `results/`, whose page is then renewed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litespark.cli.configs import repository


def add_output(parser: argparse.ArgumentParser) -> None:
    """Let a command take the folder of its records."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help="folder of records (logs/bench)")
    where.add_argument("--publish", action="store_true", help="write the record and its page into results/")


def records_folder(options: argparse.Namespace) -> Path:
    """The folder that the arguments name."""
    if options.output is not None:
        return Path(options.output)
    return repository() / ("results" if options.publish else "logs/bench")


def show(options: argparse.Namespace, tables: Sequence[Any], path: Path, picture: Path | None = None) -> None:
    """Print the tables of a record and where it is; write the page of results anew where it was published."""
    from litespark.reports.table import text

    print(text(tables))
    print(f"record: {path}" + ("" if picture is None else f", picture: {picture.name}"))
    if options.publish:
        from litespark.reports.marks import write_documents

        for page in write_documents(repository()):
            print(f"page: {page}")
