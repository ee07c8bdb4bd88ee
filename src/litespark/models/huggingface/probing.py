"""What a model computes for a few tokens, and each kind of its layers on the way, to compare with after a change."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from litespark.device import device_of
from litespark.ops.precision import autocasting, compute_dtype

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
    autocast: torch.dtype | None  # that was on

    def difference(self) -> str | None:
        """What is wrong when it is called once more; None: nothing."""
        expected = _first(self.result)
        try:
            with still(self.module), torch.no_grad(), device_of(expected.device).autocast(self.autocast):
                again = self.module(*self.arguments, **self.named)
        except ValueError as error:
            return f"its op refuses it: {error}"
        return _apart(_first(again), expected, _OF_LAYERS.get(self.autocast or expected.dtype, _EXACT))


@dataclass
class Probe:
    """A model's answer to a few tokens."""

    model: Any
    tokens: Tensor
    loss: Tensor
    logits: Tensor
    calls: dict[type, Call]  # class -> the first call of one of them
    dtype: torch.dtype  # of its products

    @property
    def _bound(self) -> float:
        return _OF_MODELS.get(self.dtype, _EXACT)

    def difference_of_logits(self) -> str | None:
        with still(self.model), torch.no_grad():
            return _apart(self.model(self.tokens, use_cache=False).logits, self.logits, self._bound)

    def difference_of_loss(self) -> str | None:
        with still(self.model), torch.no_grad():
            loss = self.model(self.tokens, labels=self.tokens, use_cache=False, skip_logits=True).loss
            return _apart(loss, self.loss, self._bound)


def probe(model: Any, classes: Collection[str]) -> Probe:
    """Run `model` on its device, and note the first call of each class of `classes`, by name."""
    calls: dict[type, Call] = {}
    dtypes: list[torch.dtype] = []  # which autocast inside of its forward, as accelerate puts it there, may lower
    size = model.config.get_text_config().vocab_size
    tokens = (torch.arange(_TOKENS, device=model.device) * 7919 % size).unsqueeze(0)

    def note(module: nn.Module, arguments: Any, named: Any, result: Any) -> None:
        x = _first(result)
        autocast = compute_dtype(x) if autocasting(x) else None
        calls.setdefault(type(module), Call(module, arguments, named, result, autocast))

    embeddings = model.get_input_embeddings()
    handles = [embeddings.register_forward_hook(lambda _, __, result: dtypes.append(compute_dtype(result)))]
    handles += [
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
    return Probe(model, tokens, outputs.loss, outputs.logits, calls, dtypes[0])


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


def _apart(got: Tensor, expected: Tensor, bound: float) -> str | None:
    got, expected = got.double(), expected.double()
    difference = float((got - expected).norm() / expected.norm().clamp(min=1e-30))
    # and not ">", which NaN would pass
    return (
        None
        if difference <= bound
        else f"it is {difference:.1e} away from the model's own, at most {bound:.0e} is allowed"
    )
