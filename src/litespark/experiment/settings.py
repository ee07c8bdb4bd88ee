"""The settings that belong to no room below: the loop, the instruments, the callbacks, the loggers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from litespark.device import ACCELERATORS
from litespark.metrics.records.run import ProjectionSettings
from litespark.ranges import Count, CountFromZero, NotNegative, Range, Seconds, check_ranges


@dataclass(frozen=True)
class TrainerConfig:
    """The loop; a step is one optimizer update, a row one sequence.

    Attributes:
        accelerator: `auto` (what PyTorch finds, else the CPU), `cpu`, `gpu` (NVIDIA or AMD), `mps` or `xpu`.
        global_batch_size: rows in one step, over all ranks and micro-batches.
        log_every: steps between two lines of metrics.
        validate_every: steps between two validations; None validates only at the end.
        deterministic: PyTorch's deterministic algorithms, or an error where there is none.
        profile: write a PyTorch profiler trace of some steps into the run's folder.
    """

    accelerator: Literal["auto", "cpu", "gpu", "mps", "xpu"] = "auto"
    global_batch_size: Count = 16
    log_every: Count = 10
    validate_every: Count | None = None
    deterministic: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        if self.accelerator not in ("auto", "cpu", *ACCELERATORS):
            raise ValueError(
                f"trainer.accelerator: got {self.accelerator!r}, expected auto, cpu, {', '.join(ACCELERATORS)}; a GPU "
                "of NVIDIA or AMD is trainer.accelerator=gpu"
            )
        check_ranges(self, "trainer")

    def fitting_micro_batch(self, asked: int, world_size: int) -> int:
        """The largest micro-batch of at most `asked` rows of which every rank takes equally many in a step.

        Raises:
            ValueError: `global_batch_size` is not a multiple of `world_size`.
        """
        if self.global_batch_size % world_size:
            fewer = max(n for n in range(1, world_size) if self.global_batch_size % n == 0)
            near = max(1, round(self.global_batch_size / world_size)) * world_size
            start = f"torchrun --nproc-per-node={fewer} train.py" if fewer > 1 else "python train.py strategy=single"
            raise ValueError(
                f"trainer.global_batch_size: got {self.global_batch_size} rows in a step and {world_size} processes, "
                f"expected a multiple of {world_size}; {start} trains the same with fewer processes, or set "
                f"trainer.global_batch_size={near}"
            )
        of_rank = self.global_batch_size // world_size
        return max(n for n in range(1, min(asked, of_rank) + 1) if of_rank % n == 0)

    def accumulate(self, micro_batch_size: int, world_size: int) -> int:
        """Micro-batches in one step on each rank, of a size that fits (see `fitting_micro_batch`).

        Raises:
            ValueError: `global_batch_size` is not a multiple of `micro_batch_size × world_size`.
        """
        fitting = self.fitting_micro_batch(micro_batch_size, world_size)
        if fitting != micro_batch_size:
            raise ValueError(
                f"data.micro_batch_size: got {micro_batch_size}, expected a number of rows of which "
                f"{world_size} processes make trainer.global_batch_size={self.global_batch_size}; "
                f"set data.micro_batch_size={fitting}"
            )
        return self.global_batch_size // (micro_batch_size * world_size)


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

    tokens: Count | None = None
    price_per_kwh: NotNegative | None = None
    currency: str | None = None
    grid_kg_per_kwh: NotNegative | None = None
    pue: Annotated[float, Range(at_least=1, why="energy of the building ÷ energy of the machines")] | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "metrics.projection")

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

    peak_flops: Annotated[float, Range(at_least=1e9, at_most=1e18, why="FLOP/s of one device")] | None = None
    probe_seconds: Annotated[float, Range(at_least=0, at_most=60)] = 0.5
    warmup_steps: CountFromZero = 3
    energy_window_seconds: Seconds = 5.0
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)

    def __post_init__(self) -> None:
        check_ranges(self, "metrics")


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
        verify: at the start, check each fast op in use against its reference on this device; `auto`: on a GPU.
        extra: Lightning callbacks of one's own by a name: `_target_` and arguments, as they stand in the config.
    """

    progress: bool = True
    checkpoint_every: Count | None = None
    checkpoint_at_end: bool = True
    checkpoint_keep: Count = 2
    sample_prompt: str | None = None
    sample_tokens: Count = 96
    sample_temperature: NotNegative = 0.8
    report: bool = True
    verify: Literal["auto", "always", "never"] = "auto"
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verify not in ("auto", "always", "never"):
            raise ValueError(f"callbacks.verify: got {self.verify!r}, expected auto, always or never")
        check_ranges(self, "callbacks")


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
