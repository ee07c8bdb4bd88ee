"""What `bench step` and `bench ablation` share: the options that say how steps are measured."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

# rounds, warm-up and counted steps where the user does not say
_ON_GPU, _ON_CPU = (3, 5, 20), (2, 2, 5)
# a GPU may be lent for ten minutes at a time, and the same command continues
MINUTES = 9.0

Rounds = Annotated[int | None, Option(help="Processes of each that is measured; 3, on a CPU 2")]
Steps = Annotated[int | None, Option(help="Counted steps of a process; 20, on a CPU 5")]
Warmup = Annotated[int | None, Option(help="Steps before them; 5, on a CPU 2")]
Minutes = Annotated[float, Option(help="Begin no process later")]
Layers = Annotated[int | None, Option(help="Measure so many layers of the model; as many as fit")]


def step_settings(device: str, **given: Any) -> Any:
    """The `StepSettings` of the options, on a device of this type.

    Raises:
        ValueError: a number is out of range.
    """
    from litespark.benchmarks.step.begin import StepSettings

    usual = dict(zip(("rounds", "warmup_steps", "steps"), _ON_CPU if device == "cpu" else _ON_GPU, strict=True))
    return StepSettings(**usual | {name: value for name, value in given.items() if value is not None})
