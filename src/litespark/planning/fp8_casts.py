"""Bytes that the casts of a step in fp8 move: the price of fp8, beside products that are faster."""

from dataclasses import dataclass

from litespark.models.llama.config import LlamaConfig
from litespark.ops.fp8.settings import Fp8Config, Recipe
from litespark.ops.shapes import StepShapes

# bytes of a value in bf16, of one in fp32, and of its codes in both layouts that products contract
_NARROW, _MASTER, _CODES = 2, 4, 2
# how often a tensor is read for its scales before it is cast
_READS_FOR_SCALES: dict[Recipe, int] = {"delayed": 0, "tensorwise": 1}
# what norms and SwiGLU make, forward and backward; attention, rope and the next block hand the others over in bf16
FUSED_CASTS = ("qkv.input", "output.gradient", "gate_up.input", "gate_up.gradient", "down.input")
# those of norms, which write codes (R, C) and read them once more to write codes (C, R)
_TURNED_CASTS, _TURNED = frozenset({"qkv.input", "output.gradient", "gate_up.input"}), 3


@dataclass(frozen=True)
class CastBytes:
    """What the casts of one kind of tensor move in an optimizer step, all layers together."""

    tensor: str  # "gate_up.input", as in `litespark.ops.fp8.scaling` without the block
    fused: bool  # the op that makes the tensor casts it on its way
    moved: int  # bytes read and written for the scales and the codes of both layouts
    spared: int  # bytes that training in bf16 moves in their place and fp8 does not

    @property
    def added(self) -> int:
        """Bytes that fp8 adds."""
        return self.moved - self.spared


def cast_bytes(
    config: LlamaConfig, shapes: StepShapes, fp8: Fp8Config, *, accumulate: int = 1, fused: bool = True
) -> list[CastBytes]:
    """What each kind of cast moves in a step of bf16 activations over fp32 masters under autocast, without recompute.

    A cast by itself reads 2 bytes a value and writes 2, and reads 2 more where the scale is the tensor's own. A fused
    one writes 2 where bf16 writes 2 as well; a norm's moves 3. Weights are cast once a step from fp32, as autocast does
    in each of the `accumulate` micro-batches. With `fused` False every cast stands by itself, else only where the
    recipe asks for it.
    """
    blocks = max(0, config.num_layers - fp8.bf16_first - fp8.bf16_last)
    tokens = shapes.tokens * accumulate
    reads = _READS_FOR_SCALES[fp8.recipe]
    casts = []
    for linear in fp8.linears:
        outputs, inputs = config.linear_shapes()[linear]
        for kind, width in (("input", inputs), ("gradient", outputs)):
            tensor, values = f"{linear}.{kind}", blocks * tokens * width
            if fused and reads == 0 and tensor in FUSED_CASTS:
                moved = (_TURNED if tensor in _TURNED_CASTS else _CODES) * values
                casts.append(CastBytes(tensor, True, moved, _NARROW * values))
            else:
                casts.append(CastBytes(tensor, False, ((1 + reads) * _NARROW + _CODES) * values, 0))
        weights = blocks * inputs * outputs
        moved = ((1 + reads) * _MASTER + _CODES) * weights
        casts.append(CastBytes(f"{linear}.weight", False, moved, accumulate * (_MASTER + _NARROW) * weights))
    return casts
