"""The head of a model that a task asks for: labels in place of the vocabulary, or none."""

import dataclasses
from typing import Any

from litespark.models.adapters.config import NoAdapter
from litespark.run.targets import ConfigError
from litespark.tasks.task import Scores, Task


def with_labels(model: Any, task: Task, adapter: Any) -> Any:
    """The settings of the model with the labels of the task; a ConfigError where it has others, or takes none."""
    asked, there = task.num_labels if isinstance(task, Scores) else None, getattr(model, "num_labels", None)
    if asked is not None and not isinstance(adapter, NoAdapter):
        raise ConfigError(
            f"task={task.name}: got an adapter, expected none, since it would leave the new head as it was drawn; set "
            "adapter=none"
        )
    if asked == there:
        return model
    if there is not None:
        raise ConfigError(
            f"task={task.name}: got a model of num_labels={there}, expected "
            f"{'a language model' if asked is None else f'num_labels={asked}'}; choose another model, or task=reward"
        )
    if "num_labels" not in {field.name for field in dataclasses.fields(model)}:
        raise ConfigError(
            f"task={task.name}: got {type(model).__name__}, expected a family with `num_labels`, the rows of its head; "
            "choose a native model or model=huggingface"
        )
    return dataclasses.replace(model, num_labels=asked)
