"""`litespark bench profile`: where the time of a step goes, by kernel class."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from litespark.cli.bench.records import add_output, records_folder, show
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose
from litespark.ranges import Repeats, number


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--variant",
        default="litespark",
        help="what to profile: a baseline, litespark, or 'NAME:override override' (%(default)s)",
    )
    parser.add_argument("--steps", type=number(Repeats), default=5, help="steps under the profiler (%(default)s)")
    parser.add_argument("--layers", type=number(Repeats), help="of the model (all, or as many as the device can train)")
    add_output(parser)
    # how the command starts itself again
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)


def _run(options: argparse.Namespace) -> int:
    if options.process is not None:
        # has Inductor name the kernels that it makes for a CPU; it reads this when it is imported
        os.environ.setdefault("TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE", "1")
    from litespark.experiment.config import parts_from

    if options.process is not None:
        from litespark.benchmarks.profile.process import run_process
        from litespark.benchmarks.step.request import Request

        run_process(parts_from(compose(options.overrides)), Request.read(options.process))
        return 0
    from litespark.benchmarks.profile.session import bench_profile
    from litespark.reports.profile import picture, table

    record, path = bench_profile(
        lambda overrides: parts_from(compose(overrides)),
        options.overrides,
        variant=options.variant,
        steps=options.steps,
        layers=options.layers,
        command=_command(options),
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    picture(record, path.with_suffix(".png"))
    show(options, [table(record)], path, path.with_suffix(".png"))
    return 0


def _command(options: argparse.Namespace) -> list[str]:
    """The words that get the measurement again."""
    words = ["litespark", "bench", "profile", *options.overrides]
    words += ["--variant", options.variant, "--steps", str(options.steps)]
    return words + ([] if options.layers is None else ["--layers", str(options.layers)])


PROFILE = Command("where the time of a step goes, by kernel class", _arguments, _run)
