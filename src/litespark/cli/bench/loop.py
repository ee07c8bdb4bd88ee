"""`litespark bench loop`: the full trainer against a bare PyTorch loop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from litespark.cli.configs import Overrides, composed_parts, number
from litespark.ranges import Repeats


def loop(
    overrides: Overrides,
    *,
    blocks: Annotated[int, number(Repeats, "Log intervals to measure")] = 3,
    output: Annotated[Path | None, Option(help="File for the record")] = None,
) -> int:
    """Measure the full trainer against a bare PyTorch loop."""
    from litespark.benchmarks.loop.interleaved import bench_loop
    from litespark.experiment.run import Interrupted
    from litespark.reports.loop import table

    try:
        record = bench_loop(composed_parts(overrides), overrides, blocks=blocks)
    except Interrupted:
        print("litespark bench: interrupted, nothing was recorded", file=sys.stderr)
        return 1
    print(table(record).text())
    if output is not None:
        record.write(output)
        print(f"record: {output}")
    return 0 if record.losses_agree else 1
