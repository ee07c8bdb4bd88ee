"""`litespark bench profile`: where the time of a step goes, by kernel class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, records_folder, show, typed
from litespark.cli.configs import Overrides, composed_parts, number, tell
from litespark.ranges import Repeats

_VARIANT = "What to profile: a baseline, litespark, or 'NAME:override override'"


def profile(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[str, Option(help=_VARIANT)] = "litespark",
    steps: Annotated[int, number(Repeats, "Steps under the profiler")] = 5,
    layers: Annotated[int | None, number(Repeats, "Of the model; as many as the device can train")] = None,
    output: Output = None,
    publish: Publish = False,
    process: Annotated[Path | None, Option(hidden=True, help="How the command starts itself again")] = None,
) -> int:
    """Measure where the time of a step goes, by kernel class."""
    if process is not None:
        # has Inductor name the kernels that it makes for a CPU; it reads this when it is imported
        os.environ.setdefault("TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE", "1")
        from litespark.benchmarks.profile.process import run_process
        from litespark.benchmarks.step.request import Request

        run_process(composed_parts(overrides), Request.read(process))
        return 0
    from litespark.benchmarks.profile.session import bench_profile
    from litespark.reports.profile import picture, table

    record, path = bench_profile(
        composed_parts,
        overrides,
        variant=variant,
        steps=steps,
        layers=layers,
        command=typed(context),
        output=records_folder(output, publish),
        say=tell,
    )
    picture(record, path.with_suffix(".png"))
    show(publish, [table(record)], path, path.with_suffix(".png"))
    return 0
