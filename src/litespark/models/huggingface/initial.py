"""How transformers initialises the parameters and buffers of a model: recorded on meta, and done anew."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_DRAWN = ("normal_", "uniform_")


@dataclass(frozen=True)
class Write:
    """An operation that changes a tensor, or a part of one, in place."""

    function: Any
    arguments: tuple[Any, ...]
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def again(self, values: Tensor, generator: torch.Generator) -> None:
        part = values.as_strided(self.size, self.stride, self.offset)
        options = {"generator": generator} if self.function.__name__.split(".")[0] in _DRAWN else {}
        self.function(part, *self.arguments, **options)


class Rules:
    """The writes to each parameter and buffer, by its name."""

    def __init__(self, writes: dict[str, list[Write]]) -> None:
        self.writes = writes

    def draw(self, name: str, values: Tensor, generator: torch.Generator) -> None:
        """Fill `values` as the parameter `name` is; ValueError where its values are computed and not drawn."""
        writes = self.writes.get(name, [])
        computed = [write.function for write in writes if any(isinstance(it, Tensor) for it in write.arguments)]
        if computed or not writes:
            how = f"by {computed[0]}" if computed else "in no step"
            raise ValueError(
                f"the initial values of {name} cannot be drawn: transformers makes them {how}, expected normal, "
                "uniform or constant ones; start from weights, without model.random=true"
            )
        for write in writes:
            write.again(values, generator)


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = [*model.named_parameters(), *model.named_buffers()]
        self.names = {id(tensor): name for name, tensor in named}
        self.writes: dict[str, list[Write]] = defaultdict(list)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.is_mutable and isinstance(args[0], Tensor):
            tensor = args[0]
            name = self.names.get(id(tensor if tensor._base is None else tensor._base))
            if name is not None:
                write = Write(function, args[1:], tensor.size(), tensor.stride(), int(tensor.storage_offset()))
                self.writes[name].append(write)
        return function(*args, **(kwargs or {}))


def rules_of(model: Any) -> Rules:
    """What transformers does to initialise the `causal_lm` of a model on meta.

    Raises:
        ValueError: a buffer that no checkpoint holds is not among what it initialises, so nobody could restore it.
    """
    with torch.no_grad(), _Recorder(model) as recorder:
        model.causal_lm.initialize_weights()
    rules = Rules(dict(recorder.writes))
    kept = model.state_dict().keys() | rules.writes.keys()
    if lost := [name for name, _ in model.named_buffers() if name not in kept]:
        raise ValueError(
            f"{type(model.causal_lm).__name__} has the buffer {lost[0]}, which is in no checkpoint and which "
            "transformers does not make again; expected one that it does. Choose a model of another family"
        )
    return rules


def restore_buffers(model: Any) -> None:
    """Compute the buffers again that are in no checkpoint, in fp32, of a model of transformers; on meta, none."""
    for module in model.modules():
        names = [name for name in module._non_persistent_buffers_set if module._buffers.get(name) is not None]
        if not names or any(module._buffers[name].is_meta for name in names):
            continue
        for name in names:
            buffer = module._buffers[name]
            module._buffers[name] = buffer.float() if buffer.is_floating_point() else buffer
        with torch.no_grad(), _kept(module):
            model._init_weights(module)


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Within it transformers leaves the parameters and the saved buffers of a module as they are."""
    saved = [buffer for name, buffer in module.named_buffers(recurse=False) if name in module.state_dict()]
    tensors: list[Any] = [*module.parameters(recurse=False), *saved]
    for tensor in tensors:
        tensor._is_hf_initialized = True
    try:
        yield
    finally:
        for tensor in tensors:
            del tensor._is_hf_initialized
