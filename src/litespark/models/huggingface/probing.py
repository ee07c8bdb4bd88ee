"""What a model computes for a few tokens, and each kind of its layers on the way, to compare with after a change."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TOKENS = 8
# of the difference, relative to the size of what the model itself computes
_OF_LAYERS = {torch.bfloat16: 3e-2, torch.float16: 1e-2}
_OF_MODELS = {torch.bfloat16: 1e-1, torch.float16: 3e-2}
_EXACT = 1e-3  # where PyTorch may multiply fp32 in TF32; a layer that is another one is off by far more


@dataclass
class Call:
    """How a layer was called, and what it returned."""

    module: nn.Module
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: Any

    def difference(self) -> str | None:
        """What is wrong when it is called once more; None: nothing."""
        try:
            with torch.no_grad():
                again = self.module(*self.arguments, **self.named)
        except ValueError as error:
            return f"its op refuses it: {error}"
        return _apart(_first(again), _first(self.result), _OF_LAYERS)


@dataclass
class Probe:
    """A model's answer to a few tokens."""

    model: Any
    tokens: Tensor
    loss: Tensor
    logits: Tensor
    calls: dict[type, Call]  # class -> the first call of one of them

    def difference_of_logits(self) -> str | None:
        with still(self.model), torch.no_grad():
            return _apart(self.model(self.tokens, use_cache=False).logits, self.logits, _OF_MODELS)

    def difference_of_loss(self) -> str | None:
        with still(self.model), torch.no_grad():
            loss = self.model(self.tokens, labels=self.tokens, use_cache=False, skip_logits=True).loss
            return _apart(loss, self.loss, _OF_MODELS)


def probe(model: Any, classes: Collection[str]) -> Probe:
    """Run `model` on its device, and note the first call of each class of `classes`, by name."""
    calls: dict[type, Call] = {}
    size = model.config.get_text_config().vocab_size
    tokens = (torch.arange(_TOKENS, device=model.device) * 7919 % size).unsqueeze(0)

    def note(module: nn.Module, arguments: Any, named: Any, result: Any) -> None:
        calls.setdefault(type(module), Call(module, arguments, named, result))

    handles = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in model.modules()
        if type(module).__name__ in classes and module is not model
    ]
    try:
        with still(model), torch.no_grad():
            outputs = model(tokens, labels=tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return Probe(model, tokens, outputs.loss, outputs.logits, calls)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Within it nothing drops values."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def _apart(got: Tensor, expected: Tensor, bounds: dict[torch.dtype, float]) -> str | None:
    bound = bounds.get(expected.dtype, _EXACT)
    got, expected = got.double(), expected.double()
    difference = float((got - expected).norm() / expected.norm().clamp(min=1e-30))
    # and not ">", which NaN would pass
    return (
        None
        if difference <= bound
        else f"it is {difference:.1e} away from the model's own, at most {bound:.0e} is allowed"
    )
