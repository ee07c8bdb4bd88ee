"""What `bench step` and `bench ablation` share: the arguments that say how steps are measured."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from litespark.cli.bench.records import add_output
from litespark.cli.configs import compose
from litespark.ranges import Minutes, Repeats, number

# rounds, warm-up and counted steps where the user does not say
_ON_A_CPU, _ON_A_GPU = (2, 2, 5), (3, 5, 20)
# a GPU may be lent for ten minutes at a time, and the same command continues
_MINUTES = 9.0
_NUMBERS = ("rounds", "steps", "warmup", "minutes", "layers")


def add_step_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Let a command take rounds, steps, minutes, layers and a folder; `what` is one of the things it measures."""
    parser.add_argument("--rounds", type=number(Repeats), help=f"processes of each {what} (3; on a CPU 2)")
    parser.add_argument("--steps", type=number(Repeats), help="counted steps of a process (20; on a CPU 5)")
    parser.add_argument("--warmup", type=number(Repeats), help="steps before them (5; on a CPU 2)")
    parser.add_argument(
        "--minutes", type=number(Minutes), default=_MINUTES, help="begin no process later (%(default)g)"
    )
    parser.add_argument("--layers", type=number(Repeats), help="measure so many layers of the model (as many as fit)")
    add_output(parser)


def step_settings(options: argparse.Namespace, device: str) -> Any:
    """The `StepSettings` of the arguments, on a device of this type.

    Raises:
        ValueError: a number is out of range.
    """
    from litespark.benchmarks.step.settings import StepSettings

    rounds, warmup, steps = _ON_A_CPU if device == "cpu" else _ON_A_GPU
    return StepSettings(
        rounds=rounds if options.rounds is None else options.rounds,
        warmup_steps=warmup if options.warmup is None else options.warmup,
        steps=steps if options.steps is None else options.steps,
        minutes=options.minutes,
        layers=options.layers,
    )


def composed_parts(overrides: Sequence[str]) -> Any:
    """The parts of a config, whose class is not imported before a command runs."""
    from litespark.experiment.config import parts_from

    return parts_from(compose(overrides))


def numbers_given(options: argparse.Namespace) -> list[str]:
    """The words of the arguments that are numbers; where the record goes is none of them."""
    words = []
    for name in _NUMBERS:
        value = getattr(options, name)
        words += [f"--{name}", repr(value)] if value is not None else []
    return words
