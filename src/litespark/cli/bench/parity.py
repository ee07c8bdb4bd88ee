"""`litespark bench parity`: what variants learn from equal tokens, beside their speed and energy."""

from __future__ import annotations

import argparse
import sys

from litespark.cli.bench.records import add_output, records_folder, renew_page
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository
from litespark.ranges import InnerShare, Minutes, number


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        help="'NAME: OVERRIDE OVERRIDE …', the first is what others are held against; give it again for more (bf16, "
        "fp8, fp8_tensorwise, fp8_rowwise)",
    )
    parser.add_argument(
        "--bound",
        type=number(InnerShare),
        default=0.005,
        help="share by which the bits per byte may be above those of the first (%(default)s)",
    )
    parser.add_argument("--seeds", default="1", help="one run of every variant for each (%(default)s)")
    parser.add_argument(
        "--minutes", type=number(Minutes), help="stop and save after so many; the same command continues"
    )
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from litespark.analysis.parity_text import all_within, picture, text
    from litespark.benchmarks.parity.session import DEFAULT, ParitySettings, bench_parity
    from litespark.benchmarks.training_runs.settings import seeds_of
    from litespark.benchmarks.training_runs.variants import parse
    from litespark.experiment.config import parts_from

    settings = ParitySettings(bound=options.bound, seeds=seeds_of(options.seeds), minutes=options.minutes)
    record, path = bench_parity(
        lambda words: parts_from(compose(words)),
        options.overrides,
        [parse(words, DEFAULT) for words in options.variant] or list(DEFAULT),
        settings,
        command=_command(options),
        script=repository() / "train.py",
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    picture(record, path.with_suffix(".png"))
    print(text(record))
    print(f"record: {path}, picture: {path.with_suffix('.png').name}")
    renew_page(options)
    return 0 if record.complete and all_within(record) else 1


def _command(options: argparse.Namespace) -> list[str]:
    """The words that get the measurement again."""
    words = ["litespark", "bench", "parity", *options.overrides, "--bound", f"{options.bound:g}"]
    words += ["--seeds", options.seeds]
    return words + [word for each in options.variant for word in ("--variant", each)]


PARITY = Command("the loss of variants after equal tokens, beside their speed", _arguments, _run)
