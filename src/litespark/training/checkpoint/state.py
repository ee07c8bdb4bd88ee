"""The state in a checkpoint: Lightning's dictionary in PyTorch's format, a pickle that is read with `weights_only`."""

import io
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils import _pytree as pytree

from litespark.training.checkpoint import folder
from litespark.training.checkpoint.folder import STATE, Checkpoint, CheckpointError, HashedFile

log = logging.getLogger(__name__)


def write(root: Path, step: int, state: Mapping[str, Any], about: Mapping[str, Any], keep: int) -> Path:
    """Write the checkpoint of `step` below `root`, and keep only the newest ones. Returns its folder.

    A CheckpointError where the disk refuses; the earlier checkpoints are kept.
    """
    tensors = sum(leaf.nbytes for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor))
    unfinished = folder.begin(root, step, int(1.05 * tensors))
    try:
        with (unfinished / STATE).open("wb") as file:
            hashed = HashedFile(file)
            torch.save(state, hashed)  # type: ignore[arg-type]  # it asks for no more than `write` and `flush`
        sealed = folder.seal(unfinished, step, about, {STATE: hashed.sha256})
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written in {root}: {error}. The earlier checkpoints are kept; "
            "correct this and resume"
        ) from error
    try:
        folder.prune(root, step, keep)
    except OSError as error:
        log.warning("the checkpoint of step %d is saved; older ones are still in %s: %s", step, root, error)
    return sealed


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a checkpoint holds, tensors on the CPU and mapped from the file: only those that are used are read.

    A CheckpointError where it is not a state, or holds something else than tensors and plain values.
    """
    try:
        state = torch.load(checkpoint.state, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint.state} is not read: {str(error).splitlines()[0]}. Expected tensors and plain values, as a "
            "training run saves them; anything else could run code and is refused. Use a checkpoint that Litespark "
            "wrote, or start from weights with model=huggingface model.path=FOLDER"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{checkpoint.state}: got a {type(state).__name__}, expected the state of a training run")
    return state


class StateAtHand(TorchCheckpointIO):
    """Gives Lightning, once, the state that was read before the run was built; under FSDP2 it opens the file itself."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        state, self._state = self._state, {}
        # weights are copied into the model; on a CPU the rest would stay in use, and with it the mapped file
        return {
            key: value if key == "state_dict" else pytree.tree_map_only(Tensor, torch.clone, value)
            for key, value in state.items()
        }


def foreign(value: Any) -> list[str]:
    """What PyTorch would refuse to read again of `value`, or why it cannot be saved."""
    saved = io.BytesIO()
    try:
        torch.save(value, saved)
    except Exception as error:  # noqa: BLE001 (whatever an object's own pickling raises)
        return [f"what cannot be pickled ({error})"]
    saved.seek(0)
    return torch.serialization.get_unsafe_globals_in_checkpoint(saved)
