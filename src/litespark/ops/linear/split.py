"""A linear layer that several lie in, one below the other, each of which may have something put on it.

T tokens, K inputs, N outputs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from litespark.ops.linear.kept import KeptLinear


class Rows(nn.Linear):
    """So many rows of another layer's weight, as a layer of its own that has no parameter.

    It is called with what the whole layer has made for it, and returns that: the product is one for all of them.
    """

    def __init__(self, whole: KeptLinear, first: int, rows: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, rows
        self.whole = (whole,)  # in a tuple it is no part of this one
        self.first = first

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # of `nn.Linear` it is a parameter
        return self.whole[0].weight[self.first : self.first + self.out_features]

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        bias = self.whole[0].bias
        return None if bias is None else bias[self.first : self.first + self.out_features]

    def forward(self, x: Tensor, product: Tensor) -> Tensor:  # type: ignore[override]
        return product


class SplitLinear(KeptLinear):
    """A `KeptLinear` that calls the layers in it by name, which something may have replaced; see `split`."""

    rows: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        whole = super().forward(x)
        if all(type(layer) is Rows for layer in self.children()):
            return whole
        products = whole.split(self.rows, dim=-1)
        results = [layer(x, product) for layer, product in zip(self.children(), products, strict=True)]
        return torch.cat(results, dim=-1)


def split(layer: KeptLinear, rows: Mapping[str, int]) -> None:
    """Let `layer` be the layers of so many `rows` each, by name, in place; its weight stays what it is."""
    assert type(layer) is KeptLinear
    layer.__class__ = SplitLinear
    first = 0
    for name, count in rows.items():
        layer.add_module(name, Rows(layer, first, count))
        first += count
    layer.rows = tuple(rows.values())  # type: ignore[assignment]


def join(model: nn.Module) -> None:
    """Undo every `split` in a model, in place."""
    for layer in [module for module in model.modules() if isinstance(module, SplitLinear)]:
        layer._modules.clear()
        del layer.rows
        layer.__class__ = KeptLinear  # type: ignore[assignment]


def row_norms(layer: nn.Linear) -> Tensor:
    """(N,): the Euclidean norm of each row of the weight; of `Rows` also where the weight is sharded."""
    if not isinstance(layer, Rows):
        return _whole(torch.linalg.vector_norm(layer.weight.detach(), dim=1))
    norms = _whole(torch.linalg.vector_norm(layer.whole[0].weight.detach(), dim=1))
    return norms[layer.first : layer.first + layer.out_features]


def _whole(values: Tensor) -> Tensor:
    gather = getattr(values, "full_tensor", None)  # of a DTensor
    return values if gather is None else gather()
