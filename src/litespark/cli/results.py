"""`litespark results`: the page of records and the figures in documents, written from the records or checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from litespark.cli.configs import repository

_CHECK = "Write nothing; exit 1 where a record is refused or a document does not show what its records hold"


def results(
    *,
    check: Annotated[bool, Option("--check", help=_CHECK)] = False,
    root: Annotated[Path | None, Option(help="Folder with results/ and the documents; this repository")] = None,
) -> int:
    """Write the figures of documents from the records, or check them."""
    from litespark.reports.marks import check_documents, write_documents

    root = root or repository()
    if not check:
        for page in write_documents(root):
            print(page)
        return 0
    problems = check_documents(root)
    for problem in problems:
        print(problem, file=sys.stderr)
    print("results: nothing to complain of" if not problems else f"results: {len(problems)} problems")
    return 1 if problems else 0
