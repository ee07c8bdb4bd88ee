"""How every Lightning strategy saves and loads: nothing is gathered or copied, a rank takes what it holds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import Strategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from litespark.mesh import Mesh
from litespark.models.parallel_layers import Part, parts_of
from litespark.training.checkpoint.files import CheckpointError
from litespark.training.checkpoint.folder import read
from litespark.training.checkpoint.pieces import StoredTensor
from litespark.training.checkpoint.state import MODEL, OPTIMIZERS, WEIGHTS, read_state


class SavesByName(Strategy):
    """A strategy whose optimizer states have the names of their parameters, however these are sharded."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """State -> parameter by name -> state by name; settings are those of the config, whatever was saved."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        names = self._parameter_names()
        return {"state": {names[parameter]: dict(state) for parameter, state in plain.state.items()}}

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """What `read_state` gives: a file is verified by the rank that reads it, when it does."""
        return read_state(read(Path(checkpoint_path), hashes=False))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        weights, there = (
            self.lightning_module.state_dict(),
            _in_parts(checkpoint[WEIGHTS], parts_of(self.lightning_module)),
        )
        for name in sorted(weights.keys() | there.keys() if strict else weights.keys() & there.keys()):
            got, expected = (tuple(side[name].shape) if name in side else None for side in (there, weights))
            if got != expected:
                raise CheckpointError(
                    f"the checkpoint is of another model: {name} is {got or 'absent'}, expected {expected or 'none'}"
                )
        named = [name for name in weights if name in there]
        self._on_all_ranks(lambda: [there[name].read_into(weights[name]) for name in named])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.lightning_module is not None
        (optimizer,), (saved,) = self.optimizers, checkpoint[OPTIMIZERS]
        names, parts = self._parameter_names(), parts_of(self.lightning_module)
        saved_states = _in_parts(saved["state"], parts, MODEL)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if others := saved_states.keys() - {names[parameter] for parameter in parameters}:
            raise CheckpointError(
                f"the checkpoint has the state of {min(others)}, which the optimizer of this run does not train"
            )
        states: dict[int, dict[str, Any]] = {}

        def read_states() -> None:
            for index, parameter in enumerate(parameters):
                if (state := saved_states.get(names[parameter])) is not None:
                    states[index] = {key: _of(parameter, value) for key, value in state.items()}

        self._on_all_ranks(read_states)
        numbers = {parameter: index for index, parameter in enumerate(parameters)}
        groups = [{"params": [numbers[of] for of in group["params"]]} for group in optimizer.param_groups]
        optimizer.load_state_dict({"state": states, "param_groups": groups})

    def _parameter_names(self) -> dict[Tensor, str]:
        assert self.lightning_module is not None
        return {of: name.removeprefix(MODEL) for name, of in self.lightning_module.named_parameters()}

    def _on_all_ranks(self, do: Callable[[], Any]) -> None:
        """Call `do` on each rank; the error of one is raised on all."""
        assert self.lightning_module is not None
        mesh: Any = self.lightning_module.mesh
        assert isinstance(mesh, Mesh)
        mesh.from_all(lambda: do() and None, "the checkpoint to be read")


def _in_parts(there: Mapping[str, Any], parts: Mapping[str, Part], prefix: str = "") -> dict[str, Any]:
    """What is stored by name, in which the `parts` of this model take the place of what they are rows of; `prefix` is
    what names lack."""
    found, wholes = dict(there), set[str]()
    for name, part in parts.items():
        if (whole := there.get(part.whole.removeprefix(prefix))) is not None:
            wholes.add(part.whole.removeprefix(prefix))
            found[name.removeprefix(prefix)] = pytree.tree_map_only(StoredTensor, lambda of: of.rows(part), whole)  # noqa: B023
    return {name: value for name, value in found.items() if name not in wholes}


def _of(parameter: Tensor, value: Any) -> Any:
    """A state as it was saved: sharded as its parameter where it has the shape of that."""
    if not isinstance(value, StoredTensor):
        return value
    if value.shape != parameter.shape:
        return value.whole().clone()
    state = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    value.read_into(state)
    return state
