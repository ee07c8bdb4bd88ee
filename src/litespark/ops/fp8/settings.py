"""Settings of training in fp8, checked when they are made; `precision.fp8` fills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from litespark.ops.fp8.formats import FORMATS, Format
from litespark.ranges import Count, CountFromZero, Range, Share, check_ranges

Recipe = Literal["delayed", "tensorwise"]
Fallback = Literal["bf16", "none"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
# powers of two from the largest number of the formats down to the smallest, of the one with fewer
MOST_MARGIN = 17
# the linear layers of a block
LINEARS = ("qkv", "output", "gate_up", "down")


@dataclass(frozen=True)
class AdaptiveConfig:
    """When a linear layer leaves fp8, and when it comes back.

    Attributes:
        sample_every: steps between two counts of what the casts lose; the step that counts costs a little more.
        overflow_bound: share of a tensor's values that may saturate.
        underflow_bound: share of a tensor's values that may become zero in the cast.
        patience: readings in a row above a bound after which the layer moves. A reading is what was counted since the
            last one, at every log interval.
        fallback: where it moves to: `bf16`, or `none`, which only warns.
        return_after: readings after which it comes back to its recipe; twice as many after each further move. None: it
            stays.

    Raises:
        ValueError: a value is out of range.
    """

    sample_every: Count = 10
    overflow_bound: Share = 0.001
    underflow_bound: Share = 0.25
    patience: Count = 3
    fallback: Fallback = "bf16"
    return_after: Count | None = 100

    def __post_init__(self) -> None:
        at = "precision.fp8.adaptive"
        check_ranges(self, at)
        if self.fallback not in get_args(Fallback):
            raise ValueError(f"{at}.fallback: got {self.fallback!r}, expected one of {', '.join(get_args(Fallback))}")


@dataclass(frozen=True)
class Fp8Config:
    """Which products of the blocks are computed in fp8, and how tensors are brought into its range.

    Embedding, head and norms, attention and the residual stream stay as they are with precision=bf16, and so do master
    weights and optimizer states.

    Attributes:
        recipe: `delayed`, one scale a tensor from the largest values of the last steps, which lets the op that makes a
            tensor cast it on its way; `tensorwise`, one scale from the tensor itself, which takes passes over it.
        gradients: format of the gradients of products; activations and weights are e4m3.
        history: steps whose largest values `delayed` looks back on.
        margin: powers of two, at most 17, that `delayed` leaves above the largest of them.
        linears: of each block, those in fp8.
        bf16_first, bf16_last: how many blocks at the beginning and the end stay in bf16.
        simulate: round as fp8 does and multiply in a wider dtype, on any device; slow, and only for looking at losses.
        adaptive: when a layer leaves fp8.

    Raises:
        ValueError: a value is unknown or out of range.
    """

    recipe: Recipe = "delayed"
    gradients: str = "e5m2"
    history: Annotated[int, Range(at_least=1, at_most=4096)] = 16
    margin: Annotated[int, Range(at_least=0, at_most=MOST_MARGIN, why="beyond, all values become zero")] = 0
    linears: tuple[str, ...] = LINEARS
    bf16_first: CountFromZero = 0
    bf16_last: CountFromZero = 0
    simulate: bool = False
    adaptive: AdaptiveConfig = AdaptiveConfig()

    def __post_init__(self) -> None:
        at = "precision.fp8"
        if isinstance(self.linears, str):
            raise ValueError(
                f"{at}.linears: got {self.linears!r}, expected a list; write {at}.linears=[{self.linears}]"
            )
        # OmegaConf hands lists over
        object.__setattr__(self, "linears", tuple(self.linears))
        if self.recipe not in RECIPES:
            raise ValueError(f"{at}.recipe: got {self.recipe!r}, expected one of {', '.join(RECIPES)}")
        if self.gradients not in FORMATS:
            raise ValueError(f"{at}.gradients: got {self.gradients!r}, expected one of {', '.join(FORMATS)}")
        check_ranges(self, at)
        unknown = [name for name in self.linears if name not in LINEARS]
        if unknown or len(set(self.linears)) != len(self.linears) or not self.linears:
            raise ValueError(
                f"{at}.linears: got {list(self.linears)}, expected some of {', '.join(LINEARS)}, each once; without "
                "any set precision=bf16"
            )

    @property
    def gradient_format(self) -> Format:
        """That of the gradients of products."""
        return FORMATS[self.gradients]
