"""`litespark bench data`: what preparation and streaming reach, beside the tokenizer and LitData."""

from __future__ import annotations

from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, records_folder, show, typed
from litespark.cli.configs import Overrides, tell


def data(
    context: Context,
    overrides: Overrides,
    *,
    rounds: Annotated[int, Option(help="In which all take turns")] = 3,
    megabytes: Annotated[float, Option(help="Of text to prepare")] = 24.0,
    seconds: Annotated[float, Option(help="To read each stream for")] = 2.0,
    timeout: Annotated[float, Option(help="Seconds of a measurement")] = 900.0,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure the speed of preparing and reading data."""
    from litespark.benchmarks.data import session
    from litespark.reports.data import tables

    record, path = session.bench_data(
        overrides,
        session.DataSettings(rounds, megabytes, seconds, timeout),
        command=typed(context),
        output=records_folder(output, publish),
        say=tell,
    )
    show(publish, tables(record), path)
    return 0
