"""`litespark bench loop`: the full trainer against a bare PyTorch loop."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose
from litespark.ranges import Repeats, number


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--blocks", type=number(Repeats), default=3, help="log intervals to measure (%(default)s)")
    parser.add_argument("--output", type=Path, help="file for the record (none)")


def _run(options: argparse.Namespace) -> int:
    from litespark.benchmarks.loop.interleaved import bench_loop
    from litespark.experiment.config import parts_from
    from litespark.experiment.run import Interrupted
    from litespark.reports.loop import table

    try:
        record = bench_loop(parts_from(compose(options.overrides)), options.overrides, blocks=options.blocks)
    except Interrupted:
        print("litespark bench: interrupted, nothing was recorded", file=sys.stderr)
        return 1
    print(table(record).text())
    if options.output is not None:
        record.write(options.output)
        print(f"record: {options.output}")
    return 0 if record.losses_agree else 1


LOOP = Command("the full trainer against a bare PyTorch loop", _arguments, _run)
