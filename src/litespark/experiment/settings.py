"""The settings that belong to no room below: the loop, the instruments, the callbacks, the loggers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from litespark.metrics.projection import check_settings
from litespark.metrics.records.run import ProjectionSettings


def _at_least(name: str, value: float | None, bound: float) -> None:
    if value is not None and not value >= bound:
        raise ValueError(f"{name}: got {value}, expected at least {bound}")


@dataclass(frozen=True)
class TrainerConfig:
    """The loop; a step is one optimizer update, a row one sequence.

    Attributes:
        accelerator: `auto` (a GPU if there is one), `cpu` or `cuda`.
        batch_rows: rows in one step, over all ranks and micro-batches.
        log_every: steps between two lines of metrics.
        validate_every: steps between two validations; None validates only at the end.
        deterministic: PyTorch's deterministic algorithms, or an error where there is none.
        profile: write a PyTorch profiler trace of some steps into the run's folder.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    batch_rows: int = 16
    log_every: int = 10
    validate_every: int | None = None
    deterministic: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", "cuda"):
            raise ValueError(f"trainer.accelerator: got {self.accelerator!r}, expected auto, cpu or cuda")
        for name in ("batch_rows", "log_every", "validate_every"):
            _at_least(f"trainer.{name}", getattr(self, name), 1)

    def accumulate(self, micro_batch_size: int, world_size: int) -> int:
        """Micro-batches in one step on each rank.

        Raises:
            ValueError: `batch_rows` is not a multiple of `micro_batch_size × world_size`.
        """
        together = micro_batch_size * world_size
        if self.batch_rows % together:
            near = max(1, round(self.batch_rows / together)) * together
            raise ValueError(
                f"trainer.batch_rows: got {self.batch_rows}, expected a multiple of data.micro_batch_size × ranks = "
                f"{micro_batch_size} × {world_size} = {together}; set trainer.batch_rows={near}, or another "
                "data.micro_batch_size"
            )
        return self.batch_rows // together


@dataclass(frozen=True)
class ProjectionConfig:
    """What a long run would cost; None is not known and gives no figure.

    Attributes:
        tokens: to project to; None: the run's own budget.
        price_per_kwh: money for a kilowatt hour.
        currency: its name, as printed.
        grid_kg_per_kwh: kg of CO2 equivalents for a kilowatt hour.
        pue: power usage effectiveness of the site: energy of the site over energy of its computers.
    """

    tokens: int | None = None
    price_per_kwh: float | None = None
    currency: str | None = None
    grid_kg_per_kwh: float | None = None
    pue: float | None = None

    def __post_init__(self) -> None:
        _at_least("metrics.projection.tokens", self.tokens, 1)
        check_settings(self.settings)

    @property
    def settings(self) -> ProjectionSettings:
        """What the arithmetic takes."""
        return ProjectionSettings(self.price_per_kwh, self.grid_kg_per_kwh, self.pue)


@dataclass(frozen=True)
class MetricsConfig:
    """The instruments.

    Attributes:
        peak_flops: dense peak of one device at bf16 in FLOP/s; None: the table, by the device's name.
        probe_seconds: how long to measure the matmul rate of the device at the start and at the end; 0 does not.
        warmup_steps: steps at the start that are not in the step time statistics.
        energy_window_seconds: shortest interval over which energy is read.
        projection: what a long run would cost.
    """

    peak_flops: float | None = None
    probe_seconds: float = 0.5
    warmup_steps: int = 3
    energy_window_seconds: float = 5.0
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)

    def __post_init__(self) -> None:
        if self.peak_flops is not None and not self.peak_flops > 0:
            raise ValueError(f"metrics.peak_flops: got {self.peak_flops}, expected FLOP/s above 0, or null")
        _at_least("metrics.probe_seconds", self.probe_seconds, 0)
        _at_least("metrics.warmup_steps", self.warmup_steps, 0)
        _at_least("metrics.energy_window_seconds", self.energy_window_seconds, 0)


@dataclass(frozen=True)
class CallbacksConfig:
    """What accompanies the loop.

    Attributes:
        progress: show a progress bar.
        checkpoint_every: steps between checkpoints; None saves only at the end.
        checkpoint_at_end: save after the last step; a run without any checkpoint cannot be continued or exported.
        checkpoint_keep: how many of the newest checkpoints to keep.
        sample_prompt: text that the trained model continues; None generates nothing.
        sample_tokens: length of that continuation.
        sample_temperature: of its softmax; 0 takes the likeliest token.
        report: write report.md and its pictures at the end.
        prove: at the start, check each fast op in use against its reference on this device; `auto`: on a GPU.
    """

    progress: bool = True
    checkpoint_every: int | None = None
    checkpoint_at_end: bool = True
    checkpoint_keep: int = 2
    sample_prompt: str | None = None
    sample_tokens: int = 96
    sample_temperature: float = 0.8
    report: bool = True
    prove: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        if self.prove not in ("auto", "always", "never"):
            raise ValueError(f"callbacks.prove: got {self.prove!r}, expected auto, always or never")
        for name in ("checkpoint_every", "checkpoint_keep", "sample_tokens"):
            _at_least(f"callbacks.{name}", getattr(self, name), 1)
        _at_least("callbacks.sample_temperature", self.sample_temperature, 0)


@dataclass(frozen=True)
class LoggerConfig:
    """Loggers beside TensorBoard and the run's own files.

    Attributes:
        extra: `wandb`, `mlflow` or None.
        project: what the run is filed under there.
    """

    extra: Literal["wandb", "mlflow"] | None = None
    project: str = "litespark"

    def __post_init__(self) -> None:
        if self.extra not in (None, "wandb", "mlflow"):
            raise ValueError(f"logger.extra: got {self.extra!r}, expected wandb, mlflow or null")
