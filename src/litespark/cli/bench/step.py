"""`litespark bench step`: whole training steps of the baselines and of ours, in fresh processes that take turns."""

from __future__ import annotations

from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, records_folder, show, typed
from litespark.cli.bench.steps import MINUTES, Layers, Minutes, Rounds, Steps, Warmup, step_settings
from litespark.cli.configs import Overrides, composed_parts, tell

_VARIANT = "A baseline, litespark, bare, train.py, or 'NAME:override …'; give it again for more; all but bare"


def step(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[list[str], Option(default_factory=list, metavar="WORD", help=_VARIANT)],
    rounds: Rounds = None,
    steps: Steps = None,
    warmup: Warmup = None,
    minutes: Minutes = MINUTES,
    layers: Layers = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure whole training steps of the baselines and of ours."""
    from litespark.benchmarks.step import session
    from litespark.benchmarks.step.variants import HUGGINGFACE, TRAINER, litespark_variant, parse
    from litespark.device import find
    from litespark.reports.step import succeeded, tables

    folder = records_folder(output, publish)
    device = find(composed_parts(overrides).trainer.accelerator).type
    variants = [parse(word) for word in variant]
    if not variants:
        variants = [*HUGGINGFACE.values(), litespark_variant("litespark"), *([] if device == "cpu" else [TRAINER])]
    record, path = session.bench_step(
        overrides,
        variants,
        step_settings(device, rounds=rounds, steps=steps, warmup_steps=warmup, minutes=minutes, layers=layers),
        command=typed(context),
        output=folder,
        around=session.Surroundings(tell),
    )
    show(publish, tables(record), path)
    if not record.complete:
        print("not all rounds are there: the same command continues")
    return 0 if succeeded(record) else 1
