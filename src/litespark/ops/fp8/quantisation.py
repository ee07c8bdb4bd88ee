"""How a producer of a tensor is asked to hand it over to products."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from litespark.ops.fp8.formats import Format


@dataclass(frozen=True)
class Quantisation:
    """What to make of one tensor."""

    format: Format | None  # of the codes; None: no fp8, an operand in the dtype of the activations
    # () fp32 power of two that is known beforehand, which lets the cast be part of the producer; None: from the
    # tensor itself, which takes a pass of its own
    scale: Tensor | None = None
    # rows, columns: which layouts of the operand are wanted
    rows: bool = True
    columns: bool = True
    amax: Tensor | None = None  # () int32, raised to `amax_bits` of the tensor before the cast; None: not wanted
    counts: Tensor | None = None  # (2,) int64, to which `saturation_and_underflow` is added; None: not wanted

    @property
    def fused(self) -> bool:
        """Whether the producer can cast on its way: all that it needs is known before it starts."""
        return self.format is not None and self.scale is not None
