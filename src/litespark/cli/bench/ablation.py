"""`litespark bench ablation`: what each optimisation between a baseline and a target buys."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository

BASELINE = "ops=reference recompute=full optim.fused=false"
TARGET = "ops=litespark recompute=none optim.fused=true"
# rounds, warm-up and counted steps where the user does not say
_DEFAULTS = {"cuda": (3, 5, 20), "cpu": (2, 2, 5)}
# a GPU may be lent for ten minutes at a time, and the same command continues
_MINUTES = 9.0


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--baseline", default=BASELINE, help="overrides that make the baseline ('%(default)s')")
    parser.add_argument("--target", default=TARGET, help="overrides that make the target ('%(default)s')")
    parser.add_argument(
        "--switch", action="append", default=[], metavar="NAME=KEY,KEY", help="switch these keys together, as NAME"
    )
    parser.add_argument("--order", default="", metavar="NAME,NAME", help="of the switches (that of the config)")
    parser.add_argument("--rounds", type=int, help="processes of each combination (3; on a CPU 2)")
    parser.add_argument("--steps", type=int, help="counted steps of a process (20; on a CPU 5)")
    parser.add_argument("--warmup", type=int, help="steps before them (5; on a CPU 2)")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="begin no process after so many (%(default)g)")
    parser.add_argument("--layers", type=int, help="measure so many layers of the model (as many as fit)")
    parser.add_argument("--output", type=Path, help="folder of records (results)")


def _run(options: argparse.Namespace) -> int:
    from litespark.analysis.ablation import failed, text, write_beside
    from litespark.benchmarks.ablation.session import bench_ablation
    from litespark.benchmarks.device import device_for
    from litespark.benchmarks.step.settings import StepSettings

    baseline, target = shlex.split(options.baseline), shlex.split(options.target)
    device = device_for(_parts([*options.overrides, *baseline]).trainer.accelerator).type
    rounds, warmup, steps = _DEFAULTS[device]
    record, path = bench_ablation(
        _parts,
        options.overrides,
        baseline=baseline,
        target=target,
        grouped=options.switch,
        order=[name for name in options.order.split(",") if name],
        settings=StepSettings(
            rounds=rounds if options.rounds is None else options.rounds,
            warmup_steps=warmup if options.warmup is None else options.warmup,
            steps=steps if options.steps is None else options.steps,
            minutes=options.minutes,
            layers=options.layers,
        ),
        command=_command(options),
        output=options.output or repository() / "results",
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(text(record))
    picture = write_beside(record, path)
    print(f"record: {path}\npicture: {picture}")
    if not record.complete:
        print("not all rounds are there: the same command continues")
    return 1 if failed(record) else 0


def _parts(overrides: Sequence[str]) -> Any:
    from litespark.experiment.config import parts_from

    return parts_from(compose(overrides))


def _command(options: argparse.Namespace) -> list[str]:
    """The words that get it again, without the folder of records."""
    words = ["litespark", "bench", "ablation", *options.overrides]
    words += ["--baseline", options.baseline, "--target", options.target]
    for each in options.switch:
        words += ["--switch", each]
    words += ["--order", options.order] if options.order else []
    for name in ("rounds", "steps", "warmup", "minutes", "layers"):
        value = getattr(options, name)
        words += [f"--{name}", f"{value:g}"] if value is not None else []
    return words


ABLATION = Command("what each optimisation between a baseline and a target buys", _arguments, _run)
