"""`litespark bench to-loss`: what variants take to the same bits per byte on the same stream."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from litespark.cli.bench.records import add_output, records_folder, renew_page
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository
from litespark.ranges import Minutes, Positive, number

_WORD = "target_bpb="


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--target-bpb", type=number(Positive), help="validation bits per byte at which a run ends; also as target_bpb=X"
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        help="'NAME: OVERRIDE OVERRIDE …', the first is the reference; give it again for more (reference, litespark, "
        "muon)",
    )
    parser.add_argument("--seeds", default="1", help="one run of every variant for each (%(default)s)")
    parser.add_argument(
        "--minutes", type=number(Minutes), help="stop and save after so many; the same command continues"
    )
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from litespark.analysis.to_loss_text import picture, text
    from litespark.benchmarks.to_loss.session import DEFAULT, ToLossSettings, bench_to_loss
    from litespark.benchmarks.training_runs.settings import seeds_of
    from litespark.benchmarks.training_runs.variants import parse
    from litespark.experiment.config import parts_from

    target, overrides = _target(options.target_bpb, options.overrides)
    variants = [parse(words, DEFAULT) for words in options.variant] or list(DEFAULT)
    settings = ToLossSettings(target_bpb=target, seeds=seeds_of(options.seeds), minutes=options.minutes)
    record, path = bench_to_loss(
        lambda words: parts_from(compose(words)),
        overrides,
        variants,
        settings,
        command=_command(options, target, overrides),
        script=repository() / "train.py",
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    picture(record, path.with_suffix(".png"))
    print(text(record))
    print(f"record: {path}, picture: {path.with_suffix('.png').name}")
    renew_page(options)
    return 0 if record.complete else 1


def _target(option: float | None, words: Sequence[str]) -> tuple[float, list[str]]:
    """The target, from the option or from a word among the overrides, and the overrides without that word."""
    said = [word.removeprefix(_WORD) for word in words if word.startswith(_WORD)]
    given = [*said, *([] if option is None else [str(option)])]
    if len(given) != 1:
        raise ValueError(
            f"--target-bpb: got {' and '.join(given) or 'none'}, expected one bits per byte at which a run ends, such "
            "as --target-bpb 1.2"
        )
    try:
        return number(Positive)(given[0]), [word for word in words if not word.startswith(_WORD)]
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--target-bpb: {error}") from error


def _command(options: argparse.Namespace, target: float, overrides: Sequence[str]) -> list[str]:
    """The words that get the measurement again."""
    words = ["litespark", "bench", "to-loss", *overrides, "--target-bpb", f"{target:g}", "--seeds", options.seeds]
    return words + [word for each in options.variant for word in ("--variant", each)]


TO_LOSS = Command("the cost of variants to the same bits per byte", _arguments, _run)
