"""What the run record says of fp8: which layers, by which recipe, what their casts lost, and which of them moved."""

from __future__ import annotations

from dataclasses import dataclass, field

from litespark.metrics.records.strict_json import wrong


@dataclass
class Fp8MoveRecord:
    """A linear layer that went from one place, a recipe or ``bf16``, to another; the same twice: it was warned of.

    ``reason`` is ``overflow`` or ``underflow``, with the tensor, its share of values lost and the bound that this is
    above in ``readings`` readings in a row; or ``return`` after as many readings, where the three are null.
    """

    step: int
    linear: str
    before: str
    after: str
    reason: str
    readings: int
    tensor: str | None = None
    share: float | None = None
    bound: float | None = None


@dataclass
class Fp8PlaceRecord:
    """Where a linear layer is that is not where it began."""

    linear: str
    place: str


@dataclass
class Fp8SharesRecord:
    """Shares of a tensor's values that saturated and that became zero: at its last reading, and the highest of all."""

    tensor: str
    step: int
    overflow: float
    underflow: float
    overflow_highest: float
    underflow_highest: float


@dataclass
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
    layers: int
    bf16_first: int
    bf16_last: int
    linears: int
    in_fp8: int
    fallback: str
    overflow_bound: float
    underflow_bound: float
    readings: int = 0
    moved: list[Fp8PlaceRecord] = field(default_factory=list)
    moves: list[Fp8MoveRecord] = field(default_factory=list)
    shares: list[Fp8SharesRecord] = field(default_factory=list)


def check_fp8(record: Fp8Record) -> None:
    """The rules that types do not express.

    Raises:
        RecordError: a share is not one, or the layers in fp8 are not those that did not move away.
    """
    for index, each in enumerate(record.shares):
        for name in ("overflow", "underflow", "overflow_highest", "underflow_highest"):
            value = getattr(each, name)
            if not 0 <= value <= 1:
                raise wrong(f"fp8.shares[{index}].{name}", value, "a share from 0 to 1")
    left = sum(each.place == "bf16" for each in record.moved)
    if record.in_fp8 != record.linears - left:
        raise wrong("fp8.in_fp8", record.in_fp8, f"{record.linears} linears but {left} that moved to bf16")
