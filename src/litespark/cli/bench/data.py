"""`litespark bench data`: what preparation and streaming reach, beside the tokenizer, litgpt and LitData."""

from __future__ import annotations

import argparse
import sys

from litespark.cli.bench.records import add_output, records_folder, show
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose
from litespark.ranges import Positive, Repeats, Seconds, number


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--rounds", type=number(Repeats), default=3, help="in which all take turns (%(default)s)")
    parser.add_argument("--megabytes", type=number(Positive), default=24.0, help="of text to prepare (%(default)s)")
    parser.add_argument("--seconds", type=number(Seconds), default=2.0, help="to read each stream for (%(default)s)")
    parser.add_argument("--litgpt-python", metavar="PATH", help="an interpreter that has litgpt (this one, if it has)")
    parser.add_argument("--timeout", type=number(Seconds), default=900.0, help="seconds of a measurement (%(default)s)")
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from litespark.benchmarks.data.rounds import DataSettings
    from litespark.benchmarks.data.session import bench_data
    from litespark.experiment.config import parts_from
    from litespark.reports.data import tables

    record, path = bench_data(
        lambda words: parts_from(compose(words)),
        options.overrides,
        DataSettings(options.rounds, options.megabytes, options.seconds, options.litgpt_python, options.timeout),
        command=_command(options),
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    show(options, tables(record), path)
    return 0


def _command(options: argparse.Namespace) -> list[str]:
    """The words that get the measurement again."""
    words = ["litespark", "bench", "data", *options.overrides, "--rounds", str(options.rounds)]
    words += ["--megabytes", repr(options.megabytes), "--seconds", repr(options.seconds)]
    return words + ([] if options.litgpt_python is None else ["--litgpt-python", options.litgpt_python])


DATA = Command("the speed of preparing and reading data", _arguments, _run)
