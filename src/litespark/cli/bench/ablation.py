"""`litespark bench ablation`: the gain of each optimisation between a baseline and a target."""

from __future__ import annotations

import argparse
import shlex
import sys

from litespark.cli.bench.records import records_folder, show
from litespark.cli.bench.whole_steps import add_step_arguments, composed_parts, numbers_given, step_settings
from litespark.cli.command import Command
from litespark.cli.configs import add_overrides

BASELINE = "ops=reference recompute=full optim.fused=false"
TARGET = "ops=litespark recompute=none optim.fused=true"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--baseline", default=BASELINE, help="overrides that make the baseline ('%(default)s')")
    parser.add_argument("--target", default=TARGET, help="overrides that make the target ('%(default)s')")
    parser.add_argument(
        "--switch", action="append", default=[], metavar="NAME=KEYS", help="switch KEY,KEY… together, as NAME"
    )
    parser.add_argument("--order", default="", metavar="NAME,NAME", help="of the switches (that of the config)")
    add_step_arguments(parser, "combination")


def _run(options: argparse.Namespace) -> int:
    from litespark.benchmarks.ablation.session import bench_ablation
    from litespark.device import find
    from litespark.reports.ablation import of_record, write_beside
    from litespark.reports.step_rows import failures

    baseline, target = shlex.split(options.baseline), shlex.split(options.target)
    device = find(composed_parts([*options.overrides, *baseline]).trainer.accelerator).type
    record, path = bench_ablation(
        composed_parts,
        options.overrides,
        baseline=baseline,
        target=target,
        grouped=options.switch,
        order=[name for name in options.order.split(",") if name],
        settings=step_settings(options, device),
        command=_command(options),
        output=records_folder(options),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    show(options, [of_record(record)], path, write_beside(record, path))
    if not record.complete:
        print("not all rounds are there: the same command continues")
    return 1 if failures(record) else 0


def _command(options: argparse.Namespace) -> list[str]:
    """The words that get it again, without the folder of records."""
    words = ["litespark", "bench", "ablation", *options.overrides]
    words += ["--baseline", options.baseline, "--target", options.target]
    for each in options.switch:
        words += ["--switch", each]
    words += ["--order", options.order] if options.order else []
    return words + numbers_given(options)


ABLATION = Command("the gain of each optimisation between a baseline and a target", _arguments, _run)
