"""`litespark bench selection`: the effect of selecting documents, at equal tokens."""

from __future__ import annotations

import argparse
import sys

from litespark.cli.bench.records import add_output, records_folder, renew_page
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository
from litespark.ranges import Count, NotNegative, Seed, number


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--seeds", default="1", help="one run of every variant for each (%(default)s)")
    parser.add_argument(
        "--clean-bytes",
        type=number(Count),
        default=2_000_000,
        help="of clean text from data.source (%(default)s)",
    )
    parser.add_argument(
        "--planted",
        type=number(NotNegative),
        default=1.0,
        help="bytes of junk for each clean one (%(default)s)",
    )
    parser.add_argument("--planted-seed", type=number(Seed), default=1, help="of what is planted (%(default)s)")
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from litespark.analysis.selection_text import text
    from litespark.benchmarks.selection.session import SelectionSettings, bench_selection
    from litespark.benchmarks.training_runs.settings import seeds_of
    from litespark.experiment.config import parts_from

    settings = SelectionSettings(seeds_of(options.seeds), options.clean_bytes, options.planted, options.planted_seed)
    record, path = bench_selection(
        lambda words: parts_from(compose(words)),
        options.overrides,
        settings,
        command=_command(options),
        script=repository() / "train.py",
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(text(record))
    print(f"record: {path}")
    renew_page(options)
    return 0 if record.complete else 1


def _command(options: argparse.Namespace) -> list[str]:
    """The words that get the measurement again."""
    return [
        *("litespark", "bench", "selection", *options.overrides, "--seeds", options.seeds),
        *("--clean-bytes", str(options.clean_bytes), "--planted", f"{options.planted:g}"),
        *("--planted-seed", str(options.planted_seed)),
    ]


SELECTION = Command("the effect of selecting documents, at equal tokens", _arguments, _run)
