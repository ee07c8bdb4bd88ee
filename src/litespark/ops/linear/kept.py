"""A linear layer whose weight is cast once an optimizer step, and not in each micro-batch as autocast casts it.

T tokens, K inputs, N outputs.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor

from litespark.device import device_of
from litespark.ops.on_cpu import transposed_product
from litespark.ops.precision import autocasting, compute_dtype


class KeptLinear(nn.Linear):
    """`nn.Linear` that under autocast, where `keep` is set, keeps the cast of its weight, with the same results; only
    the gradient of a bias, which is added up in fp32, is rounded less.

    Who sets `keep` calls `renew_kept` after each optimizer step: fused optimizers leave no trace on a weight. It is
    also cast anew where its version shows another write, or it lies elsewhere. `torch.compile` casts as autocast does.

    Where `accumulate` is set too, gradients after the first are added into `weight.grad` by their product itself. That
    is for `backward` where nobody listens to the gradient, as DDP does; `torch.autograd.grad` would get none.
    """

    keep = False
    accumulate = False

    def __init__(self, in_features: int, out_features: int, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias)
        self._cast: Tensor | None = None
        self._cast_of: tuple[object, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        dtype = compute_dtype(x)
        if not autocasting(x) or torch.compiler.is_compiling() or not self._keeps(dtype):
            if not autocasting(x) and (held := self.weight.dtype) != x.dtype:  # see `hold_frozen`
                return nn.functional.linear(x.to(held), self.weight, bias_in(self.bias, held)).to(x.dtype)
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias, self.cast(dtype), self.accumulate)

    def operand(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The weight, and what is multiplied in its place in `dtype`, which is kept where `forward` keeps it."""
        weight = self.weight
        if weight.dtype == dtype:
            return weight, weight
        return weight, self.cast(dtype) if self._keeps(dtype) else weight.to(dtype)

    def _keeps(self, dtype: torch.dtype) -> bool:
        # FSDP2 gathers weights in the dtype of autocast; and it may be in fp8 wherever it trains
        kept = self.keep and dtype != self.weight.dtype
        return kept and (self._cast is not None or torch.is_grad_enabled())

    def cast(self, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype`, the same tensor for as long as the weight is where it is."""
        state = self._state(dtype)
        if self._cast is None or self._cast_of != state:
            # also where validation runs in inference mode: training goes on with what is cast here
            with torch.inference_mode(False), torch.no_grad():
                if self._cast is None or self._cast_of[1:] != state[1:]:
                    self._cast = torch.empty_like(self.weight, dtype=dtype)
                self._cast.copy_(self.weight)
            self._cast_of = state
        return self._cast

    def follow(self) -> None:
        """Cast the weight anew where it was written to, if its cast is kept."""
        if self._cast is not None:
            self.cast(self._cast.dtype)

    def renew(self, written: MutableMapping[Tensor, Tensor] | None) -> None:
        """Cast the weight anew after an optimizer step, unless the optimizer has `written` the tensor that is kept; let
        it do so from now on."""
        if self._cast is None:
            return
        if written is None or written.get(self.weight) is not self._cast:
            self._cast_of = (-1, *self._cast_of[1:])
            kept = self.cast(self._cast.dtype)
            if written is not None and kept.dtype == torch.bfloat16:
                written[self.weight] = kept

    def _state(self, dtype: torch.dtype) -> tuple[object, ...]:
        weight = self.weight
        return weight._version, weight.data_ptr(), dtype


def keep_casts(model: nn.Module) -> list[KeptLinear]:
    """Let the layers of `model` keep their casts from now on; those that are trained, for `renew_kept`.

    Not where their weights are sharded.
    """
    layers = [module for module in model.modules() if isinstance(module, KeptLinear)]
    layers = [layer for layer in layers if not isinstance(layer.weight, DTensor)]
    for layer in layers:
        layer.keep = True
    return [layer for layer in layers if layer.weight.requires_grad]


def hold_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of frozen layers in `dtype` alone, in which autocast multiplies them, with the same results.

    Without autocast they are multiplied in it too, and results have the dtype of what is multiplied.
    """
    for layer in model.modules():
        if isinstance(layer, KeptLinear) and not layer.weight.requires_grad:
            layer.weight.data = layer.weight.data.to(dtype)


def accumulate_in_place(model: nn.Module) -> None:
    """Let the layers of `model` that keep their casts add gradients into `weight.grad` themselves, see `KeptLinear`."""
    for module in model.modules():
        if isinstance(module, KeptLinear):
            module.accumulate = True


def renew_kept(layers: Iterable[KeptLinear], written: MutableMapping[Tensor, Tensor] | None) -> None:
    """After an optimizer step; `written` are the casts that the optimizer makes of its weights, if it makes any."""
    for layer in layers:
        layer.renew(written)


class _Linear(torch.autograd.Function):
    """x (..., K) · weightᵀ (K, N), plus the bias (N) if there is one, in the dtype of `cast`, which is the weight's;
    the gradients are the weight's and the bias's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, cast: Tensor, accumulate: bool) -> Tensor:
        ctx.x_dtype, ctx.weight_dtype = x.dtype, weight.dtype
        ctx.accumulated_by = weight if accumulate else None
        x = x.to(cast.dtype)
        ctx.bias = bias
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, cast)
        return nn.functional.linear(x, cast, bias_in(bias, cast.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, cast = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.mm(flat, cast).view(*gradient.shape[:-1], -1).to(ctx.x_dtype)
        if x is not None:
            total = None if ctx.accumulated_by is None else ctx.accumulated_by.grad
            of_weight = weight_gradient(flat, x.reshape(flat.shape[0], -1), ctx.weight_dtype, total)
        of_bias = bias_gradient(flat, ctx.bias) if ctx.needs_input_grad[2] else None
        return of_x, of_weight, of_bias, None, None


def bias_in(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A bias, if there is one, in the dtype of the product that it is added to."""
    return None if bias is None else bias.to(dtype)


def bias_gradient(gradient: Tensor, bias: Tensor) -> Tensor:
    """The sum of gradient (T, N) over the tokens, (N) in the dtype of the bias."""
    return gradient.sum(0, dtype=bias.dtype)


def weight_gradient(gradient: Tensor, x: Tensor, dtype: torch.dtype, total: Tensor | None) -> Tensor | None:
    """gradientᵀ (N, T) · x (T, K) in `dtype`; where the device has such a product it is not rounded on its way.

    It is added to `total` where there is one, and nothing is returned.
    """
    wide = x.dtype != dtype == torch.float32 and device_of(x.device).is_nvidia
    if total is None:
        return torch.mm(gradient.t(), x, out_dtype=dtype) if wide else transposed_product(gradient, x, dtype)
    if wide:
        torch.ops.aten.addmm.dtype_out(total, gradient.t(), x, dtype, out=total)
    else:
        total.add_(transposed_product(gradient, x, gradient.dtype))
    return None
