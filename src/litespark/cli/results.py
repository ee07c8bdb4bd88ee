"""`litespark results`: the page of records and the figures in documents, written from the records or checked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from litespark.cli.command import Command
from litespark.cli.configs import repository


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit 1 where a record is refused or a document does not show what its records hold",
    )
    parser.add_argument("--root", type=Path, help="folder with results/ and the documents (this repository)")


def _run(options: argparse.Namespace) -> int:
    from litespark.reports.marks import check_documents, write_documents

    root: Path = options.root or repository()
    if options.check:
        problems = check_documents(root)
        for problem in problems:
            print(problem, file=sys.stderr)
        print("results: nothing to complain of" if not problems else f"results: {len(problems)} problems")
        return 1 if problems else 0
    for page in write_documents(root):
        print(page)
    return 0


RESULTS = Command("write the figures of documents from the records, or check them", _arguments, _run)
