"""`litespark bench ops`: each op and backend against PyTorch and Liger."""

from __future__ import annotations

import argparse
import sys

from litespark.cli.bench.records import add_output, records_folder, show
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose
from litespark.ranges import Seconds, number


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--op", action="append", default=[], help="measure this one; give it again for more (all)")
    parser.add_argument("--seconds", type=number(Seconds), help="length of each measurement (4 on a GPU)")
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from litespark.benchmarks.ops.session import bench_ops
    from litespark.experiment.config import parts_from
    from litespark.reports.op_speeds import tables

    asked = [word for op in options.op for word in ("--op", op)]
    asked += [] if options.seconds is None else ["--seconds", f"{options.seconds:g}"]
    record, path = bench_ops(
        parts_from(compose(options.overrides)),
        options.overrides,
        ops=options.op,
        seconds=options.seconds,
        command=["litespark", "bench", "ops", *options.overrides, *asked],
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    show(options, tables(record), path)
    return 0 if record.complete and not record.red else 1


OPS = Command("each op and backend against PyTorch and Liger", _arguments, _run)
