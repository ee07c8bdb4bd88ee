"""`litespark bench ablation`: the gain of each optimisation between a baseline and a target."""

from __future__ import annotations

import shlex
from typing import Annotated

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, records_folder, show, typed
from litespark.cli.bench.steps import MINUTES, Layers, Minutes, Rounds, Steps, Warmup, step_settings
from litespark.cli.configs import Overrides, composed_parts, tell

_SWITCH = Option(default_factory=list, metavar="NAME=KEYS", help="Switch KEY,KEY… together, as NAME")


def ablation(
    context: Context,
    overrides: Overrides,
    *,
    switch: Annotated[list[str], _SWITCH],
    baseline: Annotated[str, Option(help="Overrides that make it")] = "ops=reference recompute=full optim.fused=false",
    target: Annotated[str, Option(help="Overrides that make it")] = "ops=litespark recompute=none optim.fused=true",
    order: Annotated[str, Option(metavar="NAME,NAME", help="Of the switches; that of the config")] = "",
    rounds: Rounds = None,
    steps: Steps = None,
    warmup: Warmup = None,
    minutes: Minutes = MINUTES,
    layers: Layers = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure the gain of each optimisation between a baseline and a target."""
    from litespark.benchmarks.ablation import session
    from litespark.device import find
    from litespark.reports.ablation import of_record, waterfall
    from litespark.reports.ablation_rows import from_record
    from litespark.reports.step_rows import failures

    folder = records_folder(output, publish)
    plain = shlex.split(baseline)
    device = find(composed_parts([*overrides, *plain]).trainer.accelerator).type
    record, path = session.bench_ablation(
        overrides,
        baseline=plain,
        target=shlex.split(target),
        grouped=switch,
        order=[name for name in order.split(",") if name],
        settings=step_settings(device, rounds=rounds, steps=steps, warmup_steps=warmup, minutes=minutes, layers=layers),
        command=typed(context),
        output=folder,
        around=session.Surroundings(tell),
    )
    show(publish, [of_record(record)], path, waterfall(from_record(record), record.model.name))
    if not record.complete:
        print("not all rounds are there: the same command continues")
    return 1 if failures(record) else 0
