"""`litespark bench step`: whole training steps of the baselines and of ours, in fresh processes that take turns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository

# rounds, warm-up and counted steps where the user does not say
_DEFAULTS = {"cuda": (3, 5, 20), "cpu": (2, 2, 5)}
# a GPU may be lent for ten minutes at a time, and the same command continues
_MINUTES = 9.0


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="WORD",
        help="a baseline, litespark, train.py, or 'NAME:override …'; give it again for more (all)",
    )
    parser.add_argument("--rounds", type=int, help="processes of each variant (3; on a CPU 2)")
    parser.add_argument("--steps", type=int, help="counted steps of a process (20; on a CPU 5)")
    parser.add_argument("--warmup", type=int, help="steps before them (5; on a CPU 2)")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help="begin no process after so many (%(default)g)")
    parser.add_argument("--layers", type=int, help="measure so many layers of the model (as many as fit)")
    parser.add_argument("--output", type=Path, help="folder of records (results)")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)


def _run(options: argparse.Namespace) -> int:
    if options.process is not None:
        return _process(options)
    from litespark.analysis.step_text import text
    from litespark.benchmarks.device import device_for
    from litespark.benchmarks.step.session import bench_step, succeeded
    from litespark.benchmarks.step.settings import StepSettings
    from litespark.benchmarks.step.variants import HUGGINGFACE, TRAINER, litespark_variant, parse

    device = device_for(_parts(options.overrides).trainer.accelerator).type
    rounds, warmup, steps = _DEFAULTS[device]
    variants = [parse(word) for word in options.variant]
    if not variants:
        variants = [*HUGGINGFACE.values(), litespark_variant("litespark"), *([TRAINER] if device == "cuda" else [])]
    record, path = bench_step(
        _parts,
        options.overrides,
        variants,
        StepSettings(
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
    print(f"record: {path}")
    if not record.complete:
        print("not all rounds are there: the same command continues")
    return 0 if succeeded(record) else 1


def _process(options: argparse.Namespace) -> int:
    """One process of a benchmark: what `litespark.benchmarks.step.request.launch` starts."""
    from litespark.benchmarks.step.orphan import end_with_parent

    end_with_parent()
    from litespark.benchmarks.step.process import run_process
    from litespark.benchmarks.step.request import Request

    run_process(_parts(options.overrides), Request.read(options.process))
    return 0


def _parts(overrides: Sequence[str]) -> Any:
    """The parts of a config, whose class is not imported before a command runs."""
    from litespark.experiment.config import parts_from

    return parts_from(compose(overrides))


def _command(options: argparse.Namespace) -> list[str]:
    """The words of this command, without where its record goes."""
    words = ["litespark", "bench", "step", *options.overrides]
    for variant in options.variant:
        words += ["--variant", variant]
    for name in ("rounds", "steps", "warmup", "minutes", "layers"):
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name}", f"{value:g}"]
    return words


STEP = Command("whole training steps: four baselines, Liger and ours", _arguments, _run)
