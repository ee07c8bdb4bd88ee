"""Checkpoints of a run that trains an adapter: its weights alone, since those of the base stay what they were."""

from collections.abc import Mapping
from typing import Any

from litespark.models.adapters.initial import base_name

# where the LightningModule keeps its model
PREFIX = "model."


def without_base(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps of a `state_dict` of the LightningModule."""
    return {name: value for name, value in state.items() if not _of_base(name)}


def check_adapter(state: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Raise the ValueError where a checkpoint holds another adapter than that of `state`: nothing else would."""
    wanted, got = (
        {name: tuple(value.shape) for name, value in side.items() if name.startswith(PREFIX) and not _of_base(name)}
        for side in (state, loaded)
    )
    if differing := sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name)):
        name = differing[0]
        raise ValueError(
            f"the checkpoint is of another adapter: {name} is {got.get(name, 'absent')}, expected "
            f"{wanted.get(name, 'none')}; use a checkpoint of this run"
        )


def _of_base(name: str) -> bool:
    return name.startswith(PREFIX) and base_name(name.removeprefix(PREFIX)) is not None
