"""Linear layers of transformers models in fp8: what lies side by side is one, and scales are renewed by themselves.

Nobody of ours is there when a user's optimizer has stepped. PyTorch calls `_stepped` then, whichever optimizer of its
own it was, and the next forward pass takes the largest values into the history and casts the weights anew.
"""

import functools
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from litespark.models.huggingface.table import Attention, Mlp
from litespark.ops.fp8.formats import E4M3, power_of_two_scale
from litespark.ops.fp8.operands import MULTIPLE, Matrix, Operand, Quantisation
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.scaling import Scaling
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear.function import cast_linear
from litespark.ops.linear.joined import plain
from litespark.ops.linear.state import Fp8Linear, scaling_of

log = logging.getLogger(__name__)


class Joined(Fp8Linear):
    """Layers of one input as one: their codes lie side by side, with one scale, and nothing else of them is copied.

    Until the first step of an optimizer of PyTorch is seen, and with others for good, weights are cast in each forward.
    """

    def __init__(self, name: str, layers: Sequence[Any], pieces: Pieces, scaling: Scaling, config: Fp8Config) -> None:
        super().__init__(name, layers[0].weight, pieces, scaling, config)
        self.layers = list(layers)
        self.kept = False

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return tuple(layer.weight for layer in self.layers)

    def renew_weight(self) -> None:
        if self._operand is not None:
            super().renew_weight()
            self.kept = True

    def weight_operand(self, dtype: torch.dtype) -> Operand:
        if not self.kept:
            self._operand = None
        return super().weight_operand(dtype)

    def bias(self) -> Tensor | None:
        """(N,), of layers of which each or none has one."""
        biases = [layer.bias for layer in self.layers]
        return None if biases[0] is None else biases[0] if len(biases) == 1 else torch.cat(biases)

    def multiply(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), what each of the layers makes side by side; its casts are passes of their own."""
        return self.biased(cast_linear(x, self))

    def biased(self, y: Tensor) -> Tensor:
        bias = self.bias()
        return y if bias is None else y + bias.to(y.dtype)

    def _quantised(self, quantisation: Quantisation) -> Operand:
        weights = [weight.detach() for weight in self.weights]
        if len(weights) == 1:
            return self.pieces.cast(weights[0], quantisation)
        scale, into = quantisation.scale, quantisation.into
        if scale is None:
            scale = power_of_two_scale(torch.stack(torch._foreach_norm(weights, torch.inf)).amax().float(), E4M3)
        if into is None or into.rows is None or into.columns is None:
            sizes = sum(map(len, weights)), weights[0].shape[1]
            codes = (weights[0].new_empty(size, dtype=E4M3.dtype) for size in (sizes, sizes[::-1]))
            into = Operand(*(Matrix(part, scale) for part in codes))
        into = into.with_scale(scale)
        assert into.rows is not None
        parts = into.rows.values.split([len(weight) for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            rows = Operand(Matrix(part, scale), None)
            self.pieces.cast(weight, replace(quantisation, scale=scale, columns=False, into=rows))
        self.pieces.turn(into)
        return into


class Renewal:
    """The scales of a model and when they are renewed; copies of the model have one of their own."""

    def __init__(self, scaling: Scaling, linears: list[Joined]) -> None:
        self.scaling = scaling
        self.linears = linears
        self.due = False
        self.__setstate__({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _watched().add(self)

    def close(self) -> None:
        _watched().discard(self)

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        ours = {id(weight) for linear in self.linears for weight in linear.weights}
        stepped = [part for group in optimizer.param_groups for part in group["params"] if id(part) in ours]
        if any(isinstance(part, DTensor) for part in stepped):
            raise ValueError(
                'litespark.apply: got a model with precision="fp8" that was sharded since, expected one that each rank '
                "has whole, as with DDP; apply without precision to shard it"
            )
        self.due = self.due or bool(stepped)

    def catch_up(self) -> None:
        """Renew what is due, but not within a backward pass, whose tensors were cast by the scales of before."""
        if self.due and torch._C._current_graph_task_id() == -1:
            self.due = False
            self.scaling.finish_step(None)
            for linear in self.linears:
                linear.renew_weight()


@functools.cache
def _watched() -> "weakref.WeakSet[Renewal]":
    """Of all models; PyTorch tells of each step of each optimizer."""
    watched: weakref.WeakSet[Renewal] = weakref.WeakSet()

    def tell(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for renewal in list(watched):
            renewal.stepped(optimizer)

    register_optimizer_step_post_hook(tell)
    return watched


@dataclass(frozen=True)
class InFp8:
    """What a replaced module has of linear layers in fp8, by "inputs" and "output"."""

    linears: dict[str, Joined]
    renewal: Renewal

    def linear(self, name: str, x: Tensor, layers: list[nn.Module]) -> Joined | None:
        """That which is to multiply `x` now by `layers`; None: it is multiplied in its own dtype."""
        linear = self.linears.get(name)
        if linear is None:
            return None
        if torch.compiler.is_compiling():
            _refuse_compilation()
        assert linear.scaling is not None
        if x.device != linear.scaling.scale.device:
            raise ValueError(
                f'litespark.apply: got a model with precision="fp8" that was moved to {x.device} since, expected it on '
                f"{linear.scaling.scale.device}; litespark.remove it, move it, and apply then"
            )
        if linear.layers != layers or not plain(layers):
            _warn(f"{linear.name} was wrapped, or has a hook, since fp8 was asked for: it multiplies without")
            return None
        if x.shape[:-1].numel() % MULTIPLE:
            if torch.is_grad_enabled():
                _warn(
                    f"micro-batches whose tokens are no multiple of {MULTIPLE} are not multiplied in fp8: pad "
                    "sequences to one (pad_to_multiple_of of collators), or pack them"
                )
            return None
        self.renewal.catch_up()
        return linear


@torch.compiler.disable  # an error within what it traces the compiler takes for a reason to run that part without
def _refuse_compilation() -> None:
    raise ValueError(
        'litespark.apply: got a model with precision="fp8" in torch.compile, which cannot trace its kernels; compile '
        "without precision, or leave it uncompiled"
    )


@functools.cache
def _warn(what: str) -> None:
    """Once."""
    log.warning(what)


def enable(model: Any, config: Fp8Config, pieces: Pieces) -> dict[str, str | None]:
    """Let the linear layers of replaced modules multiply in fp8; by name of each why it does not, None: it does."""
    groups: dict[str, dict[str, list[nn.Linear]]] = {}
    reasons: dict[str, str | None] = {}
    replaced = [(name, part) for name, part in model.named_modules() if _has_linears(part)]
    last = max((_number(name) for name, _ in replaced), default=0)
    for name, part in replaced:
        row = vars(part)["litespark"].row
        outside = not config.bf16_first <= _number(name) <= last - config.bf16_last
        for place, names in (("inputs", row.inputs), ("output", (row.output,))):
            layers = [getattr(part, each) for each in names]
            reason = _why_not(layers, _OF_CONFIG[type(row), place] not in config.linears or outside)
            reasons |= dict.fromkeys((f"{name}.{each}" for each in names), reason)
            if reason is None:
                groups.setdefault(name, {})[place] = layers
    scaling = scaling_of([f"{name}.{place}" for name in groups for place in groups[name]], config, model.device)
    linears = {
        name: {place: Joined(f"{name}.{place}", layers, pieces, scaling, config) for place, layers in group.items()}
        for name, group in groups.items()
    }
    renewal = Renewal(scaling, [linear for group in linears.values() for linear in group.values()])
    model.litespark_fp8 = renewal
    for name, linears_of_part in linears.items():
        part = model.get_submodule(name)
        part.litespark = replace(part.litespark, fp8=InFp8(linears_of_part, renewal))
    return reasons


_OF_CONFIG = {
    (Attention, "inputs"): "qkv", (Attention, "output"): "output", (Mlp, "inputs"): "gate_up", (Mlp, "output"): "down"
}  # fmt: skip


def _has_linears(part: nn.Module) -> bool:
    return isinstance(getattr(vars(part).get("litespark"), "row", None), Attention | Mlp)


def _number(name: str) -> int:
    """Of the layer that a module is in."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def _why_not(layers: list[Any], excluded: bool) -> str | None:
    if excluded:
        return "the settings of fp8 leave it out"
    if not plain(layers):
        return "it is no plain nn.Linear, or has a hook"
    if len({layer.bias is None for layer in layers}) > 1:
        return "layers beside it have a bias, and it has none, or the other way round"
    if wrong := [size for layer in layers for size in layer.weight.shape if size % MULTIPLE]:
        return f"its size {wrong[0]} is no multiple of {MULTIPLE}, which fp8 products take"
    return None
