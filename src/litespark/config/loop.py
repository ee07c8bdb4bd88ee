"""The settings that belong to no room below: the loop, the instruments, the callbacks, the loggers, and the run."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, StringConstraints

from litespark.config.settings import FIXED, MAY_CHANGE, NOT_COMPARED, Switch, settings
from litespark.models.spec import Recompute
from litespark.ops.fp8.settings import Fp8Config
from litespark.ranges import Count, CountFromZero, NotNegative, Range, Seconds, Seed
from litespark.training.parallel.precision import Residual


@settings("trainer")
class TrainerConfig:
    """The loop; a step is one optimizer update, `global_batch_size` is in sequences."""

    accelerator: Literal["auto", "cpu", "gpu", "mps", "xpu"] = "auto"
    """`auto` (what PyTorch finds, else the CPU), `cpu`, `gpu` (NVIDIA or AMD), `mps` or `xpu`."""
    global_batch_size: Count = 16
    """Sequences in one step, over all ranks and micro-batches."""
    log_every: Count = 10
    """Steps between two lines of metrics."""
    validate_every: Count | None = None
    """Steps between two validations; null validates only at the end."""
    validate_at_start: Switch = False
    """Validate before the first step too, so that what a stage changed can be told."""
    deterministic: Switch = False
    """PyTorch's deterministic algorithms, or an error where there is none."""
    profile: Switch = False
    """Write a PyTorch profiler trace of some steps into the run's folder."""

    def fitting_micro_batch(self, asked: int, world_size: int) -> int:
        """The largest micro-batch of at most `asked` sequences of which every rank takes equally many in a step."""
        if self.global_batch_size % world_size:
            near = max(1, round(self.global_batch_size / world_size)) * world_size
            raise ValueError(
                f"trainer.global_batch_size: got {self.global_batch_size} and {world_size} processes, expected a "
                f"multiple of {world_size}; set trainer.global_batch_size={near}, or start fewer processes"
            )
        of_rank = self.global_batch_size // world_size
        return max(n for n in range(1, min(asked, of_rank) + 1) if of_rank % n == 0)

    def accumulate(self, micro_batch_size: int, world_size: int) -> int:
        """Micro-batches in one step on each rank; a ValueError where `fitting_micro_batch` is another."""
        fitting = self.fitting_micro_batch(micro_batch_size, world_size)
        if fitting != micro_batch_size:
            raise ValueError(
                f"data.micro_batch_size: got {micro_batch_size}, expected a number of which {world_size} processes "
                f"make trainer.global_batch_size={self.global_batch_size}; set data.micro_batch_size={fitting}"
            )
        return self.global_batch_size // (micro_batch_size * world_size)


@settings("metrics.projection")
class ProjectionConfig:
    """What a long run would cost; null is not known and gives no figure."""

    tokens: Count | None = None
    """To project to; null: the run's own budget."""
    price_per_kwh: NotNegative | None = None
    """Money for a kilowatt hour."""
    currency: str | None = None
    """Its name, as printed."""
    grid_kg_per_kwh: NotNegative | None = None
    """Kg of CO2 equivalents for a kilowatt hour."""
    pue: Annotated[float, Range(at_least=1, why="energy of the building ÷ energy of the machines")] | None = None
    """Power usage effectiveness of the site: energy of the site over energy of its computers."""


@settings("metrics")
class MetricsConfig:
    """The instruments."""

    peak_flops: Annotated[float, Range(at_least=1e9, at_most=1e18, why="FLOP/s of one device")] | None = None
    """Dense peak of one device at bf16 in FLOP/s; null: the table in metrics/hardware.py, by the device's name."""
    probe_seconds: Annotated[float, Range(at_least=0, at_most=60)] = 0.5
    """How long to measure the matmul rate of the device at the start and at the end; 0 does not."""
    warmup_steps: CountFromZero = 3
    """Steps at the start that are not in the step time statistics."""
    energy_window_seconds: Seconds = 5.0
    """Shortest interval over which energy is read."""
    projection: ProjectionConfig = ProjectionConfig()
    """What a long run would cost."""


@settings("callbacks")
class CallbacksConfig:
    """What accompanies the loop."""

    progress: Switch = True
    """Show a progress bar."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints; null saves only at the end."""
    checkpoint_at_end: Switch = True
    """Save after the last step; a run without any checkpoint cannot be continued or exported."""
    checkpoint_in_background: Switch = False
    """Train on while a checkpoint is written, from a copy of what each process writes in host memory; the last one, and
    that of a stop, are waited for. An error of a write ends the run at the step after it."""
    checkpoint_keep: Count = 2
    """How many of the newest checkpoints to keep."""
    checkpoint_keep_every: Count | None = None
    """Keep those at multiples of so many steps, too, for good."""
    checkpoint_best: str | None = None
    """Keep the one with the best value of this metric of the validation, too, such as `loss`, with a link
    `checkpoints/best`; those count that are saved in the step of a validation."""
    checkpoint_best_is: Literal["lowest", "highest"] = "lowest"
    """Which value of that metric is the best."""
    sample_prompt: str | None = None
    """Text that the trained model continues; null generates nothing."""
    sample_tokens: Count = 96
    """Length of that continuation."""
    sample_temperature: NotNegative = 0.8
    """Of its softmax; 0 takes the likeliest token."""
    report: Switch = True
    """Write report.md and its pictures at the end."""
    verify: Literal["auto", "always", "never"] = "auto"
    """At the start, check each fast op in use against its reference on this device; `auto`: on a GPU."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Lightning callbacks of your own by a name: `{NAME: {_target_: package.module.Class, argument: value}}`."""


@settings("logger")
class LoggerConfig:
    """A logger beside TensorBoard and the run's own files."""

    extra: Literal["wandb", "mlflow"] | None = None
    """Which one."""
    project: str = "litespark"
    """What the run is filed under there."""
    own: dict[str, Any] | None = None
    """A Lightning logger of your own: `{_target_: package.module.Class, argument: value}`."""


@settings("precision")
class PrecisionConfig:
    """In what is computed."""

    name: Literal["auto", "fp32", "bf16", "fp8"] = "auto"
    """`auto` takes the fastest that is right here, on a CPU by timing layers of the model; one line of the log says
    which, and why. A run that began on a CPU keeps it when it is resumed there."""
    residual: Residual = "bf16"
    """Dtype of the residual stream and of its gradient where activations are bf16, under every strategy."""
    fp8: Fp8Config = Fp8Config()
    """With fp8 only."""


@settings("recompute")
class RecomputeConfig:
    """What the backward pass computes again."""

    mode: Recompute = "none"
    """Nothing; the product of gate and up in the MLP; or whole blocks, of which only the input is kept."""


# of digits only it arrives as a number
Text = Annotated[str, BeforeValidator(lambda word: str(word) if type(word) in (int, float) else word)]
Path = Annotated[Text, StringConstraints(min_length=1, pattern="^[^\0]*$")]


@settings("paths", resume=NOT_COMPARED)
class PathsConfig:
    """Where things are read and written; relative paths start where the command is given."""

    data: Path = "data"
    """Text, prepared data and the cache of remote chunks."""
    logs: Path = "logs"
    """Runs, sweeps and records of benchmarks."""


@settings("", resume=NOT_COMPARED)
class RunConfig:
    """What belongs to no group."""

    name: Text | None = None
    """Folder of the run under logs/runs; null: date and time, experiment and overrides."""
    run: Text | None = None
    """The run, checkpoint or Hugging Face folder that an experiment of a later stage starts from: its model.path."""
    seed: Annotated[Seed, FIXED] = 1234
    """Of initial weights, the order of the data, and samples."""
    resume: Text | None = None
    """A run folder (its newest valid checkpoint) or one checkpoint in it: continue from there, in the same folder.
    `auto`: continue the run of this `name` if it has saved anything, else start it."""
    allow_other_tokenizer: Annotated[Switch, MAY_CHANGE] = False
    """Train the weights of model.path on ids that mean other tokens."""
