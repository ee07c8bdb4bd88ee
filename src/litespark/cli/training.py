"""`litespark train`, and the command that trains in order to check something: `verify-resume`."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository
from litespark.ranges import Count, Processes, number


def train(overrides: Sequence[str]) -> int:
    """Run train.py as a script would, with Hydra's own flags (-m sweeps, --cfg job prints)."""
    script = repository() / "train.py"
    with _arguments([str(script), *overrides]):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return int(end.code or 0)
    return 0


@contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.epilog = "The same as `python train.py …`: -m sweeps over lists, --cfg job prints the config."


def _train(options: argparse.Namespace) -> int:
    return train(options.overrides)


def _verify_resume_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument("--steps", type=number(Count), default=6, help="steps before the kill (%(default)s)")
    parser.add_argument("--more", type=number(Count), default=6, help="steps after it (%(default)s)")
    parser.add_argument(
        "--nproc", type=number(Processes), default=1, help="processes; more than one start with torchrun (%(default)s)"
    )


def _verify_resume(options: argparse.Namespace) -> int:
    from litespark.experiment.config import parts_from
    from litespark.experiment.verify_resume import verify_resume

    parts_from(compose(options.overrides))  # a mistake shows before a process is started
    verdict = verify_resume(
        repository() / "train.py",
        options.overrides,
        steps=options.steps,
        more=options.more,
        processes=options.nproc,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(verdict)
    return 0 if verdict.difference is None else 1


TRAIN = Command("train a model; the same as python train.py", _train_arguments, _train)
VERIFY_RESUME = Command("check that a killed run continues bit for bit", _verify_resume_arguments, _verify_resume)
