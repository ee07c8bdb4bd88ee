"""Settings of training in fp8, checked when they are made; `precision.fp8` fills them."""

from typing import Annotated, Literal, get_args

from litespark.config.settings import FIXED, Switch, settings
from litespark.ops.fp8.formats import FORMATS, Format
from litespark.ranges import Count, CountFromZero, Range, Share

Recipe = Literal["delayed", "tensorwise"]
Fallback = Literal["bf16", "none"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
# powers of two from the largest number of the formats down to the smallest, of the one with fewer
MOST_MARGIN = 17
# the linear layers of a block
Linear = Literal["qkv", "output", "gate_up", "down"]
LINEARS: tuple[Linear, ...] = get_args(Linear)


@settings("precision.fp8.adaptive")
class AdaptiveConfig:
    """When a linear layer leaves fp8, and when it comes back."""

    sample_every: Count = 10
    """Steps between two counts of what the casts lose; the step that counts costs a little more."""
    overflow_bound: Share = 0.001
    """Share of a tensor's values that may saturate."""
    underflow_bound: Share = 0.25
    """Share of a tensor's values that may become zero in the cast."""
    patience: Count = 3
    """Readings in a row above a bound after which the layer moves. A reading is what was counted since the last one, at
    every log interval."""
    fallback: Fallback = "bf16"
    """Where it moves to: `bf16`, or `none`, which only warns."""
    return_after: Count | None = 100
    """Readings after which it comes back to its recipe; twice as many after each further move. null: it stays."""


@settings("precision.fp8")
class Fp8Config:
    """Which products of the blocks are computed in fp8, and how tensors are brought into its range.

    Embedding, head and norms, attention and the residual stream stay as they are with precision=bf16, and so do master
    weights and optimizer states.
    """

    recipe: Annotated[Recipe, FIXED] = "delayed"
    """`delayed`, one scale a tensor from the largest values of the last steps, which lets the op that makes a tensor
    cast it on its way; `tensorwise`, one scale from the tensor itself, which takes passes over it."""
    gradients: Annotated[Literal["e4m3", "e5m2"], FIXED] = "e5m2"
    """Format of the gradients of products; activations and weights are e4m3."""
    history: Annotated[int, Range(at_least=1, at_most=4096), FIXED] = 16
    """Steps whose largest values `delayed` looks back on."""
    margin: Annotated[int, Range(at_least=0, at_most=MOST_MARGIN, why="beyond, all values become zero")] = 0
    """Powers of two that `delayed` leaves above the largest of them."""
    linears: Annotated[tuple[Linear, ...], FIXED] = LINEARS
    """Of each block, those in fp8."""
    bf16_first: Annotated[CountFromZero, FIXED] = 0
    """How many blocks at the beginning stay in bf16."""
    bf16_last: Annotated[CountFromZero, FIXED] = 0
    """How many blocks at the end stay in bf16."""
    simulate: Switch = False
    """Round as fp8 does and multiply in a wider dtype, on any device; slow, and only for looking at losses."""
    adaptive: AdaptiveConfig = AdaptiveConfig()
    """When a layer leaves fp8."""

    def __post_init__(self) -> None:
        if len(set(self.linears)) != len(self.linears) or not self.linears:
            raise ValueError(
                f"precision.fp8.linears: got {list(self.linears)}, expected some of {', '.join(LINEARS)}, each once; "
                "without any set precision=bf16"
            )

    @property
    def gradient_format(self) -> Format:
        """That of the gradients of products."""
        return FORMATS[self.gradients]
