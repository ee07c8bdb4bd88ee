"""One validation: a pass over batches without gradients. Whatever validates, during a run or after it, does it here."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torchmetrics import Metric

from litespark.data.batch import TokenBatch
from litespark.models.evaluating import evaluating
from litespark.tasks.task import Task


def validate(
    model: nn.Module,
    task: Task,
    metrics: Metric,
    batches: Iterable[TokenBatch],
    device: torch.device,
    forward_context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, float]:
    """What `metrics` of `task` come to over the `batches` of all ranks; a collective."""
    metrics.reset()
    with evaluating(model), forward_context():
        for batch in batches:
            task.evaluate(model, batch.to(device), metrics)
    values = {name: float(value) for name, value in metrics.compute().items()}
    if "loss" not in values:
        raise ValueError(
            f"{type(metrics).__name__}.compute: got {', '.join(values) or 'nothing'}, expected loss among them"
        )
    return values
