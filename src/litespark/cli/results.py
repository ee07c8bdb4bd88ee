"""`litespark results`: the ledger's page from its records, and whether every published figure has one."""

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
        help="write nothing; exit 1 where the page, a record or a figure in a document is not as it should be",
    )
    parser.add_argument("--root", type=Path, help="folder with results/ and the documents (this repository)")


def _run(options: argparse.Namespace) -> int:
    from litespark.reports.ledger import check_ledger, write_ledger

    root: Path = options.root or repository()
    if options.check:
        problems = check_ledger(root)
        for problem in problems:
            print(problem, file=sys.stderr)
        print("results: nothing to complain of" if not problems else f"results: {len(problems)} problems")
        return 1 if problems else 0
    print(write_ledger(root / "results"))
    return 0


RESULTS = Command("write results/README.md from the records, or check every published figure", _arguments, _run)
