"""`litespark bench ops`: each op and backend against PyTorch and Liger."""

from __future__ import annotations

from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, records_folder, show, typed
from litespark.cli.configs import Overrides, composed_parts, number, tell
from litespark.ranges import Seconds


def ops(
    context: Context,
    overrides: Overrides,
    *,
    op: Annotated[list[str], Option(default_factory=list, help="Measure this one; give it again for more; all")],
    seconds: Annotated[float | None, number(Seconds, "Length of each measurement; 4 on a GPU")] = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure each op and backend against PyTorch and Liger."""
    from litespark.benchmarks.ops.session import bench_ops
    from litespark.reports.op_speeds import tables

    record, path = bench_ops(
        composed_parts(overrides),
        overrides,
        ops=op,
        seconds=seconds,
        command=typed(context),
        output=records_folder(output, publish),
        say=tell,
    )
    show(publish, tables(record), path)
    return 0 if record.complete and not record.red else 1
