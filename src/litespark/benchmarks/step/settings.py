"""How a benchmark of whole steps is run."""

from __future__ import annotations

from dataclasses import dataclass


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

    rounds: int = 3
    warmup_steps: int = 3
    steps: int = 20
    loss_rows: int = 8
    minutes: float | None = None
    layers: int | None = None
    process_timeout: float = 900.0

    def __post_init__(self) -> None:
        whole = {"--rounds": self.rounds, "--warmup": self.warmup_steps, "--steps": self.steps,
                 "--layers": self.layers, "loss_rows": self.loss_rows}  # fmt: skip
        for name, value in whole.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1")
        for name, limit in {"--minutes": self.minutes, "process_timeout": self.process_timeout}.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}: got {limit}, expected more than 0")
