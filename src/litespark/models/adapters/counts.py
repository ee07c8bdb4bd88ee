"""What training an adapter costs: parameters and FLOPs, beside those of training all of the model.

A product of a frozen weight costs its forward and the gradient of its input, not that of the weight. Below the first
adapter of a model nothing needs a gradient. Those products are found on meta, by what autograd would follow; attention
is counted whole also in a first layer where a part of its gradient is left out. The conventions are those of
`planning.flops`; what DoRA makes of the weights alone is left out, as what an optimizer does is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from litespark.models.adapters.config import LoraAdapter
from litespark.models.adapters.lora import adapted_layers, put_on
from litespark.models.spec import FAILS_WITHOUT_VALUES, ModelSpec, Recompute
from litespark.ops.backend import OpsConfig, resolve


@dataclass(frozen=True)
class AdapterCounts:
    """Parameters of an adapter, and of products.

    `trained` are all of it, `products` those that a token is multiplied with. `below` are of those of the base, and
    `products_below` of those of the adapter, whose input needs no gradient. `again` are those that full recomputation
    multiplies with beside what it does without an adapter.
    """

    trained: int
    products: int
    below: int
    products_below: int
    again: int

    def saved_flops(self, frozen: int) -> float:
        """Operations a token that are left out of `planning.flops.model_flops_per_token` of the model alone, less those
        of the adapter; `frozen` are its matmul parameters."""
        return 2 * frozen + 2 * self.below - 6 * self.products + 2 * self.products_below

    def recomputed_flops(self, recompute: Recompute) -> float:
        """Operations a token beside `ModelSpec.recomputed_flops`."""
        return 2.0 * self.again if recompute == "full" else 0.0


def adapter_counts(spec: ModelSpec, adapter: LoraAdapter) -> AdapterCounts:
    """The counts of an adapter on a model; no weights are made."""
    with torch.device("meta"):
        model = spec.build(resolve(OpsConfig()), "none")
        put_on(model, spec, adapter)
    layers = adapted_layers(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    products = sum(_product(part) for layer in layers.values() for part in (layer.lora_A, layer.lora_B))
    below, products_below, last = _watched(model, spec)
    again = products
    for unit in spec.units(model):
        # the last product of a layer is not made again, nor was it before; what stands below its adapter is
        if (final := last.get(unit)) is not None and hasattr(final, "lora_A"):
            again += final.base_layer.weight.numel() - _product(final.lora_B)
    return AdapterCounts(trained, products, below, products_below, again)


def _product(parts: Any) -> int:
    return sum(int(part.weight.numel()) for part in parts.values())


def _watched(model: nn.Module, spec: ModelSpec) -> tuple[int, int, dict[nn.Module, Any]]:
    """Parameters of the base and of the adapter whose input needs no gradient, and the last linear layer of each unit.

    Of a model that computes nothing without values: none, and those that are listed last.
    """
    adapters = {part for layer in adapted_layers(model).values() for part in _parts(layer)}
    units = {module: unit for unit in spec.units(model) for module in unit.modules()}
    base = [module for module in model.modules() if hasattr(module, "lora_A") or _is_base(module, adapters)]
    last = {units[module]: module for module in base if module in units}
    below = {True: 0, False: 0}
    called: dict[nn.Module, Any] = {}

    def watch(module: Any, inputs: tuple[Tensor, ...]) -> None:
        if module in units and module not in adapters and not hasattr(module, "whole"):
            called[units[module]] = adapted.get(module, module)
        if not inputs[0].requires_grad and not hasattr(module, "whole"):
            below[module in adapters] += module.weight.numel()

    adapted = {layer.base_layer: layer for layer in adapted_layers(model).values()}
    hooks = [module.register_forward_pre_hook(watch) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        if (run := getattr(model, "run_on_meta", None)) is not None:
            run()
        else:
            model(torch.zeros(1, 2, dtype=torch.int64, device="meta"))
    except FAILS_WITHOUT_VALUES:
        return 0, 0, last
    finally:
        for hook in hooks:
            hook.remove()
    return below[False], below[True], called


def _parts(layer: Any) -> list[nn.Module]:
    return [*layer.lora_A.values(), *layer.lora_B.values()]


def _is_base(module: nn.Module, adapters: set[nn.Module]) -> bool:
    return isinstance(module, nn.Linear) and module not in adapters
