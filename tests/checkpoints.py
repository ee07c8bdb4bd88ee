"""Checkpoints as tests read and change them."""

import json
from pathlib import Path
from typing import Any

from litespark.atomic import content_hash
from litespark.mesh import Mesh
from litespark.run.folder import SEAL
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.checkpoint.files import Written
from litespark.training.checkpoint.keep import Keep
from litespark.training.checkpoint.state import read_whole, write

FILE = "rank-00000.safetensors"


def state_in(path: Path | str) -> dict[str, Any]:
    """All that a checkpoint, or the newest of a run, holds."""
    return read_whole(checkpoint_folder.find(path))


def written(root: Path, step: int, about: dict[str, Any], keep: int = 9, **values: Any) -> Path:
    """A checkpoint without weights."""
    return write(
        Mesh(), root, step, {"state_dict": {}, "optimizer_states": [{"state": {}}], **values}, about, Keep(keep)
    )


def reseal(checkpoint: Path, **about: object) -> Path:
    """Seal a changed checkpoint as an attacker would: with hashes that are right."""
    was = json.loads((checkpoint / SEAL).read_bytes())
    (checkpoint / SEAL).unlink()
    unfinished = checkpoint.rename(checkpoint.with_name("unfinished"))
    files = {path.name: Written(path.stat().st_size, content_hash(path)) for path in unfinished.iterdir()}
    content = {"about": {**was["about"], **about}, "files": files, "tensors": was["tensors"], "state": was["state"]}
    return checkpoint_folder.seal(unfinished, was["step"], content)
