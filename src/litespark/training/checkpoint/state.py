"""The state in a checkpoint: Lightning's dictionary, its tensors by name in files of each rank, the rest in the seal.

Names are those of the `state_dict` of the LightningModule (`model.…`), `optimizer.STATE.NAME` for the states of a
parameter of the model, and `rest.…` for other tensors.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from litespark.mesh import Mesh
from litespark.models.parallel_layers import Part
from litespark.training.checkpoint import folder
from litespark.training.checkpoint.files import (
    DTYPE_NAMES,
    CheckpointError,
    MappedFiles,
    Written,
    write_tensors,
)
from litespark.training.checkpoint.folder import Checkpoint
from litespark.training.checkpoint.keep import Keep, prune
from litespark.training.checkpoint.pieces import Stored, StoredTensor, divide, held, joined, local_piece
from litespark.training.checkpoint.plain import decode, encode

log = logging.getLogger(__name__)

WEIGHTS, OPTIMIZERS = "state_dict", "optimizer_states"
MODEL = "model."
_OPTIMIZER, _REST, _VALUES = "optimizer", "rest", "optimizer_values"


@dataclass(frozen=True)
class Prepared:
    """A checkpoint of which all is decided and nothing is written: `mine` are the pieces of this rank by their keys."""

    unfinished: Path
    step: int
    content: Mapping[str, Any]
    mine: Mapping[str, Tensor]
    keep: Keep

    def finish(self, mesh: Mesh) -> Path:
        """Write the pieces, seal the checkpoint when all ranks did, and remove older ones; a collective."""
        root, file = self.unfinished.parent, f"rank-{mesh.rank:05d}.safetensors"

        def write_own() -> dict[str, Written]:
            return {file: write_tensors(self.unfinished / file, self.mine)} if self.mine else {}

        def seal() -> Path:
            files = {file: written for of_rank in by_rank for file, written in of_rank.items()}
            sealed = folder.seal(self.unfinished, self.step, {"files": files, **self.content})
            try:
                prune(root, self.step, self.keep)
            except OSError as error:
                log.warning(
                    "the checkpoint of step %d is saved; older ones are still in %s: %s", self.step, root, error
                )
            return sealed

        try:
            by_rank = mesh.from_all(write_own, "the checkpoint to be written")
            return mesh.from_first(seal, "the checkpoint to be sealed")
        except OSError as error:
            if mesh.is_first:
                rmtree(self.unfinished, ignore_errors=True)  # which may be what fills the disk
            raise CheckpointError(
                f"the checkpoint of step {self.step} could not be written in {root}: {error}. The earlier checkpoints "
                "are kept; correct this and resume"
            ) from error


def write(
    mesh: Mesh,
    root: Path,
    step: int,
    state: Mapping[str, Any],
    about: Mapping[str, Any],
    keep: Keep,
    parts: Mapping[str, Part] | None = None,
) -> Path:
    """Write the checkpoint of `step` below `root`, and remove those not to `keep`; a collective. Returns its folder.

    `state` is Lightning's, with tensors plain or sharded (DTensor) and optimizer states by the names of parameters;
    all else in it, as `about`, is that of rank 0. Weights that are `parts` of others, and their states, are written as
    pieces of these. A CheckpointError on all ranks where a disk refuses; the earlier
    checkpoints are kept.
    """
    return prepare(mesh, root, step, state, about, keep, parts).finish(mesh)


def prepare(
    mesh: Mesh,
    root: Path,
    step: int,
    state: Mapping[str, Any],
    about: Mapping[str, Any],
    keep: Keep,
    parts: Mapping[str, Part] | None = None,
) -> Prepared:
    """What each rank has to write, with an empty folder for it; as `write`, which does it."""
    tensors, rest = _parted(state)
    encoded = dict[str, Any]()

    def begun() -> Path:
        refused: list[str] = []
        encoded.update(encode(rest, _REST, tensors, refused))
        refused += [str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in DTYPE_NAMES]
        if refused:
            raise CheckpointError(f"the state holds {', '.join(refused)}, expected tensors and plain values alone")
        whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return folder.begin(root, step, int(1.05 * whole))

    unfinished = mesh.from_first(begun, "room for the checkpoint")
    index, keys = _divided(mesh, tensors, unfinished.is_dir())
    mine = {key: local_piece(tensors[name])[0] for key, name in keys.items()}
    content = {"about": dict(about), "state": encoded, "tensors": joined(index, _with_states(tensors, parts or {}))}
    return Prepared(unfinished, step, content, mine, keep)


_last: dict[tuple[Any, ...], tuple[dict[str, Stored], dict[str, str]]] = {}  # of one save


def _divided(mesh: Mesh, tensors: Mapping[str, Tensor], sees: bool) -> tuple[dict[str, Stored], dict[str, str]]:
    """The index of all tensors, and what this rank writes by its keys, where it `sees` the folder; a collective.

    That of the save before is taken again where no rank holds anything else now: with hundreds of ranks making it takes
    long.
    """
    mine = held(tensors)
    digests = tuple(mesh.gather((hashlib.sha256(repr(mine).encode()).digest(), sees)))
    if digests not in _last:
        by_rank = mesh.gather(mine)
        writers = [rank for rank, (_, sees) in enumerate(digests) if sees]
        index, keys = divide([pieces for pieces, _ in by_rank], by_rank[0][1], writers)
        _last.clear()
        _last[digests] = index, keys[mesh.rank]
    return _last[digests]


def read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a checkpoint holds, as `write` took it; weights and states of parameters as a StoredTensor each, of
    which nothing is read yet."""
    files = MappedFiles(checkpoint.folder, checkpoint.files)
    stored = {name: StoredTensor(name, value, files) for name, value in checkpoint.tensors.items()}
    # of their own: what is small would keep its file mapped
    state: dict[str, Any] = decode(checkpoint.state, lambda name: stored[name].whole().clone())
    by_parameter: dict[str, dict[str, Any]] = state.pop(_VALUES)
    for name in [name for name in stored if name.startswith((f"{_OPTIMIZER}.", f"{_REST}."))]:
        tensor = stored.pop(name)
        if name.startswith(f"{_OPTIMIZER}."):
            _, key, parameter = name.split(".", 2)
            by_parameter.setdefault(parameter, {})[key] = tensor
    return {**state, WEIGHTS: stored, OPTIMIZERS: [{"state": by_parameter}]}


def read_whole(checkpoint: Checkpoint) -> dict[str, Any]:
    """As `read_state`, with every tensor on the CPU, mapped where it lies in one piece."""
    return pytree.tree_map_only(StoredTensor, StoredTensor.whole, read_state(checkpoint))


def foreign(value: Any) -> list[str]:
    """The kinds of what a checkpoint does not take in `value`."""
    tensors, refused = dict[str, Tensor](), list[str]()
    encode(value, "", tensors, refused)
    return refused + [str(tensor.dtype) for tensor in tensors.values() if tensor.dtype not in DTYPE_NAMES]


def _with_states(tensors: Iterable[str], parts: Mapping[str, Part]) -> dict[str, Part]:
    """`parts` with those of the optimizer states among `tensors`."""
    found = dict(parts)
    for name in tensors:
        if name.startswith(f"{_OPTIMIZER}."):
            _, key, parameter = name.split(".", 2)
            if (part := parts.get(MODEL + parameter)) is not None:
                found[name] = part._replace(whole=f"{_OPTIMIZER}.{key}.{part.whole.removeprefix(MODEL)}")
    return found


def _parted(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of weights and optimizer by name, and all else."""
    tensors, values = dict(state[WEIGHTS]), dict[str, dict[str, Any]]()
    (optimizer,) = state[OPTIMIZERS]
    for parameter, of_parameter in optimizer["state"].items():
        for key, value in of_parameter.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}.{key}.{parameter}"] = value
            else:
                values.setdefault(parameter, {})[key] = value
    rest = {key: value for key, value in state.items() if key not in (WEIGHTS, OPTIMIZERS)}
    return tensors, {**rest, _VALUES: values}
