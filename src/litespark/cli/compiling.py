"""`litespark kernels`: what the kernels take on each target, compiled without a GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from litespark.cli.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", action="append", default=[], help="sm_90, gfx942, …; repeatable (all)")
    parser.add_argument("--op", action="append", default=[], help="rms_norm, attention, …; repeatable (all)")
    parser.add_argument("--all", action="store_true", help="all configurations, not only the usual one of each kernel")
    parser.add_argument("--output", type=Path, help="file for the table (Markdown)")


def _run(options: argparse.Namespace) -> int:
    from litespark.benchmarks.kernels import compile_kernels

    if options.output is not None:  # where nothing can be written is known before minutes are spent
        options.output.parent.mkdir(parents=True, exist_ok=True)
    table = compile_kernels(
        options.op, options.target, every=options.all, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    text = table.markdown()
    if options.output is None:
        print(text, end="")
    else:
        options.output.write_text(text, encoding="utf-8")
        print(f"table: {options.output}")
    for misfit in table.misfits:
        print(f"litespark kernels: {misfit}", file=sys.stderr)
    return 1 if table.misfits else 0


KERNELS = Command("compile the kernels without a GPU: registers, stack, shared memory", _arguments, _run)
