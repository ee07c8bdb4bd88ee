"""`litespark bench step` and `bench ablation`: whole training steps, in fresh processes that take turns."""

import shlex
from typing import Annotated, Any

from typer import Context, Option

from litespark.cli.bench.records import Output, Publish, recording, show
from litespark.cli.configs import Overrides, composed_parts

# a GPU may be lent for ten minutes at a time, and the same command continues
_MINUTES = 9.0
_ON_CPU = {"rounds": 2, "warmup_steps": 2, "steps": 5}

Rounds = Annotated[int | None, Option(help="Processes of each that is measured; 3, on a CPU 2")]
Steps = Annotated[int | None, Option(help="Counted steps of a process; 20, on a CPU 5")]
Warmup = Annotated[int | None, Option(help="Steps before them; 5, on a CPU 2")]
Minutes = Annotated[float, Option(help="Begin no process later")]
Layers = Annotated[int | None, Option(help="Measure so many layers of the model; as many as fit")]
_VARIANT = "A baseline, litespark, bare, train.py, or 'NAME:override …'; give it again for more; all but bare"
_SWITCH = Option(default_factory=list, metavar="NAME=KEYS", help="Switch KEY,KEY… together, as NAME")


def step(
    context: Context,
    overrides: Overrides,
    *,
    variant: Annotated[list[str], Option(default_factory=list, metavar="WORD", help=_VARIANT)],
    rounds: Rounds = None,
    steps: Steps = None,
    warmup: Warmup = None,
    minutes: Minutes = _MINUTES,
    layers: Layers = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure whole training steps of the baselines and of ours."""
    from litespark.benchmarks.step.session import bench_step
    from litespark.benchmarks.step.variants import HUGGINGFACE, TRAINER, litespark_variant, parse
    from litespark.reports.step import succeeded, tables

    on_cpu = _on_cpu(overrides)
    variants = [parse(word) for word in variant]
    if not variants:
        variants = [*HUGGINGFACE.values(), litespark_variant("litespark"), *([] if on_cpu else [TRAINER])]
    settings = _settings(on_cpu, rounds=rounds, steps=steps, warmup_steps=warmup, minutes=minutes, layers=layers)
    record, path = bench_step(overrides, variants, settings, **recording(context, output, publish))
    show(publish, tables(record), path, complete=record.complete)
    return 0 if succeeded(record) else 1


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
    minutes: Minutes = _MINUTES,
    layers: Layers = None,
    output: Output = None,
    publish: Publish = False,
) -> int:
    """Measure the gain of each optimisation between a baseline and a target."""
    from litespark.benchmarks.ablation import bench_ablation
    from litespark.reports.ablation import from_record, of_record, waterfall
    from litespark.reports.step_rows import failures

    plain = shlex.split(baseline)
    on_cpu = _on_cpu([*overrides, *plain])
    settings = _settings(on_cpu, rounds=rounds, steps=steps, warmup_steps=warmup, minutes=minutes, layers=layers)
    record, path = bench_ablation(
        overrides,
        baseline=plain,
        target=shlex.split(target),
        settings=settings,
        grouped=switch,
        order=[name for name in order.split(",") if name],
        **recording(context, output, publish),
    )
    figure = waterfall(from_record(record), record.model.name)
    show(publish, [of_record(record)], path, figure, complete=record.complete)
    return 1 if failures(record) else 0


def _on_cpu(overrides: list[str]) -> bool:
    from litespark.device import device_of, find

    return not device_of(find(composed_parts(overrides).trainer.accelerator)).is_accelerator


def _settings(on_cpu: bool, **given: Any) -> Any:
    from litespark.benchmarks.step.begin import StepSettings

    usual: dict[str, Any] = _ON_CPU if on_cpu else {}
    return StepSettings(**usual | {name: value for name, value in given.items() if value is not None})
