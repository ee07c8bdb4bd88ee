"""fp8 in a run: which layers, by which recipe, what their casts lost, and which of them moved."""

from dataclasses import field

from litespark.metrics.records.base import CountFromZero, Share, part
from litespark.ops.fp8.adaptive import Move


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
    moves: list[Move] = field(default_factory=list)
    shares: list[Fp8SharesRecord] = field(default_factory=list)
