"""`litespark bench step`: whole training steps of the baselines and of ours, in fresh processes that take turns."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from litespark.cli.bench.records import records_folder, show
from litespark.cli.bench.whole_steps import add_step_arguments, composed_parts, numbers_given, step_settings
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="WORD",
        help="a baseline, litespark, train.py, or 'NAME:override …'; give it again for more (all)",
    )
    add_step_arguments(parser, "variant")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)


def _run(options: argparse.Namespace) -> int:
    if options.process is not None:
        return _process(options)
    from litespark.benchmarks.step.session import bench_step
    from litespark.benchmarks.step.variants import HUGGINGFACE, TRAINER, litespark_variant, parse
    from litespark.device import find
    from litespark.reports.step import tables
    from litespark.reports.step_goals import succeeded

    device = find(composed_parts(options.overrides).trainer.accelerator).type
    variants = [parse(word) for word in options.variant]
    if not variants:
        variants = [*HUGGINGFACE.values(), litespark_variant("litespark"), *([] if device == "cpu" else [TRAINER])]
    record, path = bench_step(
        composed_parts,
        options.overrides,
        variants,
        step_settings(options, device),
        command=_command(options),
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    show(options, tables(record), path)
    if not record.complete:
        print("not all rounds are there: the same command continues")
    return 0 if succeeded(record) else 1


def _process(options: argparse.Namespace) -> int:
    """One process of a benchmark: what `litespark.benchmarks.step.request.launch` starts."""
    from litespark.parent import end_with_parent

    end_with_parent()
    from litespark.benchmarks.step.process import run_process
    from litespark.benchmarks.step.request import Request

    run_process(composed_parts(options.overrides), Request.read(options.process))
    return 0


def _command(options: argparse.Namespace) -> list[str]:
    """The words of this command, without where its record goes."""
    words = ["litespark", "bench", "step", *options.overrides]
    for variant in options.variant:
        words += ["--variant", variant]
    return words + numbers_given(options)


STEP = Command("whole training steps: four baselines, Liger and Litespark", _arguments, _run)
