"""`litespark verify` and `litespark kernels`: what the ops compute on this device, and what their kernels take."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from litespark.cli.configs import Overrides, tell


def verify(overrides: Overrides) -> int:
    """Check each fast op against its reference on this device.

    Exit code 0: every backend that the config asks for was run forward and backward beside its reference, at the
    widths of the config, and is right. With `auto`, every backend that can run here is. Without a GPU,
    Triton's interpreter runs the kernels at small sizes, which verifies their arithmetic and not the compiled code.
    """
    from litespark.run.composing import compose
    from litespark.run.verify import verify_all

    return 0 if verify_all(compose(overrides), say=lambda line: print(line, flush=True)) else 1


def kernels(
    *,
    target: Annotated[list[str], Option(default_factory=list, help="sm_90, gfx942, …; repeatable; all")],
    op: Annotated[list[str], Option(default_factory=list, help="rms_norm, attention, …; repeatable; all")],
    all: Annotated[bool, Option("--all", help="All configurations, not only the usual one of each kernel")] = False,
    output: Annotated[Path | None, Option(help="File for the table (Markdown)")] = None,
) -> int:
    """Compile the kernels without a GPU: registers, stack, shared memory."""
    from litespark.benchmarks.kernels import compile_kernels
    from litespark.reports.kernels import page

    if output is not None:  # where nothing can be written is known before minutes are spent
        output.parent.mkdir(parents=True, exist_ok=True)
    compiled = compile_kernels(op, target, every=all, say=tell)
    if output is None:
        print(page(compiled), end="")
    else:
        output.write_text(page(compiled), encoding="utf-8")
        print(f"table: {output}")
    for misfit in compiled.misfits:
        print(f"litespark kernels: {misfit}", file=sys.stderr)
    return 1 if compiled.misfits else 0
