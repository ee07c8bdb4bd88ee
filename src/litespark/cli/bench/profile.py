"""`litespark bench profile`: where the time of a step goes, by kernel class."""

from __future__ import annotations

from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, records_folder, show, typed
from litespark.cli.configs import Overrides, number, tell
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
) -> int:
    """Measure where the time of a step goes, by kernel class."""
    from litespark.benchmarks.profile.session import bench_profile
    from litespark.reports.profile import figure, table

    record, path = bench_profile(
        overrides,
        variant=variant,
        steps=steps,
        layers=layers,
        command=typed(context),
        output=records_folder(output, publish),
        say=tell,
    )
    show(publish, [table(record)], path, figure(record))
    return 0
