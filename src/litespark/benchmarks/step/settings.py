"""How a benchmark of whole steps is run."""

from __future__ import annotations

from dataclasses import dataclass

from litespark.ranges import Minutes, Repeats, Seconds, check_ranges


@dataclass(frozen=True)
class StepSettings:
    """The settings beside the config.

    Attributes:
        rounds: fresh processes of each variant.
        warmup_steps, steps: of each process: not counted, and counted.
        loss_rows: held-out rows on which each process takes its loss.
        minutes: no process but the first is begun that would end later than this after the start; None: all
            are.
        layers: of the model; None: all of them, or as many as fit the device.
        process_timeout: seconds after which a process is ended.

    Raises:
        ValueError: a setting is out of range.
    """

    rounds: Repeats = 3
    warmup_steps: Repeats = 3
    steps: Repeats = 20
    loss_rows: Repeats = 8
    minutes: Minutes | None = None
    layers: Repeats | None = None
    process_timeout: Seconds = 900.0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            options=True,
            names={"warmup_steps": "--warmup", "loss_rows": "loss_rows", "process_timeout": "process_timeout"},
        )
