"""`litespark train`, and the two commands that train in order to check something: `verify-resume` and `bench`."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose, repository


def train(overrides: Sequence[str]) -> int:
    """Run train.py as a script would, with Hydra's own flags (-m sweeps, --cfg job prints)."""
    script = repository() / "train.py"
    with _arguments([str(script), *overrides]):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
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
    parser.add_argument("--steps", type=int, default=6, help="steps before the kill (%(default)s)")
    parser.add_argument("--more", type=int, default=6, help="steps after it (%(default)s)")
    parser.add_argument(
        "--nproc", type=int, default=1, help="processes; more than one start with torchrun (%(default)s)"
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


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=["loop", "ops"],
        help="loop: the full trainer against a bare PyTorch loop; ops: each op and backend against PyTorch and Liger",
    )
    add_overrides(parser)
    parser.add_argument("--blocks", type=int, default=3, help="loop: log intervals to measure (%(default)s)")
    parser.add_argument("--op", action="append", default=[], help="ops: measure this one; give it again for more (all)")
    parser.add_argument("--seconds", type=float, help="ops: length of each measurement (4 on a GPU)")
    parser.add_argument(
        "--output", type=Path, help="loop: file for the record (none); ops: folder of records (results)"
    )


def _bench(options: argparse.Namespace) -> int:
    return _bench_ops(options) if options.what == "ops" else _bench_loop(options)


def _bench_loop(options: argparse.Namespace) -> int:
    from litespark.benchmarks.loop.interleaved import bench_loop
    from litespark.experiment.config import parts_from
    from litespark.experiment.run import Interrupted

    try:
        record = bench_loop(parts_from(compose(options.overrides)), options.overrides, blocks=options.blocks)
    except Interrupted:
        print("litespark bench: interrupted, nothing was recorded", file=sys.stderr)
        return 1
    print(record.table())
    if options.output is not None:
        record.write(options.output)
        print(f"record: {options.output}")
    return 0 if record.losses_agree else 1


def _bench_ops(options: argparse.Namespace) -> int:
    from litespark.benchmarks.ops.goals import table
    from litespark.benchmarks.ops.session import bench_ops
    from litespark.experiment.config import parts_from

    record, path = bench_ops(
        parts_from(compose(options.overrides)),
        options.overrides,
        ops=options.op,
        seconds=options.seconds,
        output=options.output or repository() / "results",
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(table(record))
    print(f"record: {path}")
    return 0 if record.complete and not record.red else 1


TRAIN = Command("train a model; the same as python train.py", _train_arguments, _train)
VERIFY_RESUME = Command("check that a killed run continues bit for bit", _verify_resume_arguments, _verify_resume)
BENCH = Command("measure the trainer against a bare PyTorch loop, or the ops against PyTorch", _bench_arguments, _bench)
