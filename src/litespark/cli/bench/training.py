"""`litespark bench parity`, `to-loss` and `selection`: three questions to variants that are trained with every seed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from litespark.cli.bench.records import add_output, records_folder, show
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository
from litespark.ranges import Count, InnerShare, Minutes, NotNegative, Positive, Seed, number


def _add_runs(parser: argparse.ArgumentParser, variants: str | None = None) -> None:
    """Let a command take overrides, variants (None: it has its own), seeds and minutes."""
    add_overrides(parser)
    if variants is not None:
        parser.add_argument(
            "--variant",
            action="append",
            default=[],
            help=f"'NAME: OVERRIDE OVERRIDE …', the first is what others are held against; once for each ({variants})",
        )
    parser.add_argument("--seeds", default="1", help="one run of every variant for each (%(default)s)")
    parser.add_argument(
        "--minutes", type=number(Minutes), help="stop and save after so many; the same command continues"
    )
    add_output(parser)


def _parity_arguments(parser: argparse.ArgumentParser) -> None:
    _add_runs(parser, "bf16, fp8, fp8_tensorwise")
    parser.add_argument(
        "--bound",
        type=number(InnerShare),
        default=0.005,
        help="share by which the bits per byte may be above those of the first (%(default)s)",
    )


def _to_loss_arguments(parser: argparse.ArgumentParser) -> None:
    _add_runs(parser, "reference, litespark, muon")
    parser.add_argument(
        "--target-bpb",
        type=number(Positive),
        help="validation bits per byte at which a run ends; also as budget.target_bpb=X",
    )


def _selection_arguments(parser: argparse.ArgumentParser) -> None:
    _add_runs(parser)
    parser.add_argument(
        "--clean-bytes", type=number(Count), default=2_000_000, help="of clean text from data.source (%(default)s)"
    )
    parser.add_argument(
        "--planted", type=number(NotNegative), default=1.0, help="bytes of junk for each clean one (%(default)s)"
    )
    parser.add_argument("--planted-seed", type=number(Seed), default=1, help="of what is planted (%(default)s)")


def _parity(options: argparse.Namespace) -> int:
    from litespark.benchmarks.training.variants import PARITY

    return _run(options, PARITY, ["--bound", repr(options.bound)], bound=options.bound)


def _to_loss(options: argparse.Namespace) -> int:
    from litespark.benchmarks.training.variants import TO_LOSS

    if options.target_bpb is not None:
        options.overrides = [*options.overrides, f"budget.target_bpb={options.target_bpb!r}"]
    return _run(options, TO_LOSS, [])


def _selection(options: argparse.Namespace) -> int:
    from litespark.benchmarks.training.corpus import CorpusSettings
    from litespark.benchmarks.training.variants import SELECTION

    corpus = CorpusSettings(clean_bytes=options.clean_bytes, planted=options.planted, planted_seed=options.planted_seed)
    words = ["--clean-bytes", str(options.clean_bytes), "--planted", repr(options.planted)]
    return _run(options, SELECTION, [*words, "--planted-seed", str(options.planted_seed)], corpus=corpus)


def _run(options: argparse.Namespace, question: Any, words: Sequence[str], **settings: Any) -> int:
    """Ask a question; `words` are what was given for it alone."""
    from litespark.benchmarks.training import session
    from litespark.benchmarks.training.variants import parse
    from litespark.experiment.config import parts_from
    from litespark.reports.curves import picture
    from litespark.reports.training import all_within, tables

    variants = getattr(options, "variant", [])
    command = ["litespark", "bench", question.name, *options.overrides, *words, "--seeds", options.seeds]
    record, path = session.bench_training(
        question,
        lambda words: parts_from(compose(words)),
        options.overrides,
        session.TrainingSettings(seeds=session.seeds_of(options.seeds), minutes=options.minutes, **settings),
        [parse(each, question.variants) for each in variants],
        command=command + [word for each in variants for word in ("--variant", each)],
        script=repository() / "train.py",
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    picture(record, path.with_suffix(".png"))
    show(options, tables(record), path, path.with_suffix(".png"))
    return 0 if record.complete and all_within(record) else 1


PARITY = Command("the loss of variants after equal tokens, beside their speed", _parity_arguments, _parity)
TO_LOSS = Command("the cost of variants to the same bits per byte", _to_loss_arguments, _to_loss)
SELECTION = Command("the effect of selecting documents, at equal tokens", _selection_arguments, _selection)
