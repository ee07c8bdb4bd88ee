"""fp8 in a run: which layers, by which recipe, what their casts lost, and which of them moved."""

from __future__ import annotations

from dataclasses import field
from typing import Self

from pydantic import model_validator

from litespark.metrics.records.base import CountFromZero, Share, part


@part
class Fp8MoveRecord:
    """A linear layer that went from one place, a recipe or ``bf16``, to another; the same twice: it was warned of.

    ``reason`` is ``overflow`` or ``underflow``, with the tensor, its share of values lost and the bound that this is
    above in ``readings`` readings in a row; or ``return`` after as many readings, where the three are null.
    """

    step: CountFromZero
    linear: str
    before: str
    after: str
    reason: str
    readings: CountFromZero
    tensor: str | None = None
    share: Share | None = None
    bound: float | None = None


@part
class Fp8PlaceRecord:
    """Where a linear layer is that is not where it began."""

    linear: str
    place: str


@part
class Fp8SharesRecord:
    """Shares of a tensor's values that saturated and that became zero: at its last reading, and the highest of all."""

    tensor: str
    step: CountFromZero
    overflow: Share
    underflow: Share
    overflow_highest: Share
    underflow_highest: Share


@part
class Fp8Record:
    """fp8 in a run: the settings, and what became of the layers.

    ``linears`` counts the linear layers that are in fp8 by the settings, ``in_fp8`` those of them that are now;
    ``kinds`` are theirs in each block but for the first and last ``bf16_first`` and ``bf16_last`` of ``layers``.
    ``simulated`` products are rounded as in fp8 and computed in a wider dtype, so that the speed is not that of fp8.
    ``backend`` is that of the casts; ``readings`` are those of the shares.
    """

    recipe: str
    gradients: str
    simulated: bool
    backend: str | None
    kinds: list[str]
    layers: CountFromZero
    bf16_first: CountFromZero
    bf16_last: CountFromZero
    linears: CountFromZero
    in_fp8: CountFromZero
    fallback: str
    overflow_bound: float
    underflow_bound: float
    readings: CountFromZero = 0
    moved: list[Fp8PlaceRecord] = field(default_factory=list)
    moves: list[Fp8MoveRecord] = field(default_factory=list)
    shares: list[Fp8SharesRecord] = field(default_factory=list)

    @model_validator(mode="after")
    def _counts_its_layers(self) -> Self:
        left = sum(each.place == "bf16" for each in self.moved)
        if self.in_fp8 != self.linears - left:
            raise ValueError(f"in_fp8: got {self.in_fp8}, expected {self.linears} but {left} that moved to bf16")
        return self
