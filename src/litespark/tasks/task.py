"""What a run is asked to learn: the loss, what it is divided by, and what a validation measures."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litespark.data.batch import TokenBatch
from litespark.data.manifest import Manifest


@runtime_checkable
class Task(Protocol):
    """A task; `Pretrain` is the first.

    Attributes:
        name: what records call it. loss_unit: of the loss after the division, such as "nats/token". measures_text:
        whether `bits_per_byte` is among its metrics, and the unigram entropy is what its loss is compared with.
    """

    @property
    def name(self) -> str: ...
    @property
    def loss_unit(self) -> str: ...
    @property
    def measures_text(self) -> bool: ...

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The summed loss of a micro-batch, (); gradients are divided once, by the divisor of the whole step."""
        ...

    def divisor(self, batch: TokenBatch) -> int | float:
        """How many terms the loss of `batch` sums: tokens, their weights, pairs; of the host, so that no step waits."""
        ...

    def metrics(self, manifest: Manifest) -> Metric:
        """What a validation measures: `compute` returns scalars by name, "loss" among them, over all ranks."""
        ...

    def evaluate(self, model: nn.Module, batch: TokenBatch, metrics: Metric) -> None:
        """Add a validation batch to what `metrics` made; called without gradients."""
        ...


@runtime_checkable
class TakesFormats(Protocol):
    """A task that learns from some data alone: "text", or formats of examples."""

    @property
    def data_formats(self) -> tuple[str, ...]: ...


@runtime_checkable
class Compares(Protocol):
    """A task whose batches hold what a reference model makes of them, where `needs_reference`."""

    @property
    def needs_reference(self) -> bool: ...


@runtime_checkable
class Scores(Protocol):
    """A task that trains a model with so many labels in place of the vocabulary, read at the last id of a sequence."""

    @property
    def num_labels(self) -> int: ...


@runtime_checkable
class Observes(Protocol):
    """A task that logs more of a training step than its loss, as means over the window and all ranks.

    Attributes:
        observed: K names; `train/NAME` is logged of each.
    """

    @property
    def observed(self) -> tuple[str, ...]: ...

    def observe(self, model: nn.Module, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """What `loss` returns, and (K, 2) fp32 without gradient: the sum of each over the batch and what divides it."""
        ...


@runtime_checkable
class RollsOut(Protocol):
    """A task that learns from what the model itself samples: its batches hold prompts alone."""

    @property
    def keeps_reference(self) -> bool:
        """Whether it compares with the policy as it is before the first step."""
        ...

    def rolled(
        self, model: nn.Module, batch: TokenBatch, step: int, place: int, reference: nn.Module | None = None
    ) -> TokenBatch:
        """What micro-batch `place` of `step` learns from, on the device of `batch`; called before `loss`.

        `reference` is there where it is kept; None with an adapter: the model below it is that.
        """
        ...

    def take_sampled(self) -> int:
        """How many completions this rank sampled to learn from since the last call."""
        ...

    def state_dict(self, step: int) -> dict[str, Any]:
        """What this rank has to keep for `step`, the next one: tensors and plain values by micro-batch, or nothing."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None: ...

    def close(self) -> None:
        """End what was started for it, such as a process."""
        ...


@runtime_checkable
class NeedsTools(Protocol):
    """Settings of a task that needs more of a run than batches: its prompts, tokenizer and phases."""

    @property
    def keeps_reference(self) -> bool:
        """See `RollsOut`."""
        ...

    @property
    def reward_models(self) -> Mapping[str, str]:
        """Folders of reward models, by their names."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion, beside those of tokenizer and model."""
        ...

    def running(self, tools: Any) -> Task:
        """The task as it runs, with the `Tools` of tasks/grpo/rollout.py; a ValueError where it cannot."""
        ...
