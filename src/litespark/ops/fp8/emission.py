"""How a producer of a tensor is asked to hand it over to products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litespark.ops.fp8.formats import Format


@dataclass(frozen=True)
class Emission:
    """What to make of one tensor.

    Attributes:
        format: of the codes; None: no fp8, an operand in the dtype of the activations.
        scale: () fp32 power of two that is known beforehand, which lets the cast be part of the producer; None: from
            the tensor itself, which takes a pass of its own.
        rowwise: a scale for each row (for `rows`) and for each column (for `columns`), from the tensor itself.
        rows, columns: which layouts of the operand are wanted.
        amax: () int32, raised to `amax_bits` of the tensor before the cast; None: not wanted.
        counts: (2,) int64, to which `lost` is added; None: not wanted. Of a rowwise cast that of the rows.
    """

    format: Format | None
    scale: Tensor | None = None
    rowwise: bool = False
    rows: bool = True
    columns: bool = True
    amax: Tensor | None = None
    counts: Tensor | None = None

    @property
    def fused(self) -> bool:
        """Whether the producer can cast on its way: all that it needs is known before it starts."""
        return self.format is not None and self.scale is not None and not self.rowwise


def raise_to(amax: Tensor | None, bits: Tensor) -> None:
    """Raise `amax` to `bits` in place, where it is wanted."""
    if amax is not None:
        torch.maximum(amax, bits, out=amax)
