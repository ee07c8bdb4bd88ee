"""`litespark bench data`, `ops`, `profile` and `traffic`: the parts of training, each by itself."""

from typing import Annotated, Any

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, recording, show
from litespark.cli.configs import Overrides, composed_parts, number
from litespark.ranges import Repeats, Seconds

_VARIANT = "What to profile: a baseline, litespark, or 'NAME:override override'"
_DOCUMENTS = "Estimate attention within documents: mean tokens and spread of log-normal lengths, or a prepared folder"


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
    from litespark.benchmarks.data.session import DataSettings, bench_data
    from litespark.reports.data import tables

    settings = DataSettings(rounds=rounds, megabytes=megabytes, seconds=seconds, timeout=timeout)
    record, path = bench_data(overrides, settings, **recording(context, output, publish))
    show(publish, tables(record), path)
    return 0


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

    given = recording(context, output, publish)
    record, path = bench_ops(composed_parts(overrides), overrides, ops=op, seconds=seconds, **given)
    show(publish, tables(record), path)
    return 0 if record.complete and not record.red else 1


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

    given = recording(context, output, publish)
    record, path = bench_profile(overrides, variant=variant, steps=steps, layers=layers, **given)
    show(publish, [table(record)], path, figure(record))
    return 0


def traffic(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[list[str], Option(default_factory=list, help="Count this one; give it again for more; all")],
    families: Annotated[bool, Option("--families", help="A layer of each dense family, theirs and ours")] = False,
    gap: Annotated[float, Option(help="Microseconds between two kernels, for the bound")] = 0.0,
    documents: Annotated[str | None, Option(metavar="MEAN,SPREAD|FOLDER", help=_DOCUMENTS)] = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Count the bytes, kernels and kept activations of a step, without a device."""
    if families:
        return _families(variant, overrides, recording(context, output, publish), publish)
    from litespark.benchmarks.traffic.session import bench_traffic
    from litespark.reports.document_pairs import within_documents
    from litespark.reports.traffic import Rates, tables

    record, path = bench_traffic(overrides, variants=variant, **recording(context, output, publish))
    within = []
    if documents is not None:
        parts = composed_parts(overrides)
        shapes = parts.model.step_shapes(parts.data.micro_batch_size, parts.data.seq_len, documents=True)
        within.append(within_documents(documents, shapes, parts.model.num_layers))
    show(publish, [*tables(record, Rates(gap=1e-6 * gap)), *within], path)
    return 0


def _families(variants: list[str], overrides: list[str], record_as: dict[str, Any], publish: bool) -> int:
    from litespark.benchmarks.traffic.family_session import bench_families
    from litespark.reports.family_traffic import table

    record, path = bench_families(overrides, variants=variants, **record_as)
    show(publish, [table(record)], path)
    return 0
