"""What is timed of fp8: products with their casts, the ops that cast on their way, and casts by themselves.

T tokens of a micro-batch, K features in, N features out.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from litespark.benchmarks.ops.contenders import Run
from litespark.metrics.records.ops import BF16
from litespark.ops.fp8.formats import E4M3, FORMATS, Format
from litespark.ops.fp8.operands import Operand, Quantisation, plain, product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import RECIPES
from litespark.ops.shapes import Place

# of the recipe `delayed`, what norms and SwiGLU make, forward and backward; attention, rope and the next block hand the
# others over in bf16
FUSED_CASTS = ("qkv.input", "output.gradient", "gate_up.input", "gate_up.gradient", "down.input")
# cases
NORM, SWIGLU = "norm that casts", "SwiGLU that casts"
CASTS, WEIGHTS = "casts that stay passes of a layer", "casts of the weights of a layer"
# variants of cases, beside bf16
PRODUCTS = "fp8 products alone"
DELAYED, TENSORWISE = RECIPES
APART = "delayed, casts apart"
PLAIN_THEN_CAST = "bf16, then cast"
FUSED = "fused"

_EPSILON = 1e-5
# such that values of a normal distribution use most of the range and do not leave it
_SCALES = {"e4m3": 2.0**-6, "e5m2": 2.0**-13}
_BOTH = ("input", "gradient")


class Fp8Runs:
    """The runs at `place`, whose tensors are random; everything is called through `pieces` as a block calls it.

    Tensors are asked for by a recipe, with their amax noted as in every step; counts are sampled, and not here.
    """

    def __init__(self, place: Place, pieces: Pieces, gradients: str) -> None:
        self.place, self.pieces, self.gradients = place, pieces, FORMATS[gradients]
        self._generator = torch.Generator(place.device).manual_seed(0)
        self._scales = {name: torch.tensor(scale, device=place.device) for name, scale in _SCALES.items()}
        self._amax = torch.zeros((), dtype=torch.int32, device=place.device)

    def linear(self, name: str | None, outputs: int, inputs: int) -> dict[str, Run]:
        """A linear layer: its three products, with such casts as a recipe makes in each micro-batch, bf16 first.

        Its weight is cast beforehand, as it is once a step, and in bf16 as well. `name` None: it stands alone, with no
        op around it to cast on its way.
        """
        tokens = self.place.shapes.tokens
        tensors = (
            self._normal(tokens, inputs),
            self._normal(outputs, inputs, dtype=torch.float32, scale=inputs**-0.5),
            self._normal(tokens, outputs),
        )
        runs = {BF16: self._products(tensors, None, ()), PRODUCTS: self._products(tensors, DELAYED, ())}
        if name is not None:
            apart = [tensor for tensor in _BOTH if f"{name}.{tensor}" not in FUSED_CASTS]
            runs[DELAYED] = self._products(tensors, DELAYED, apart)
        runs[APART] = self._products(tensors, DELAYED, _BOTH)
        runs[TENSORWISE] = self._products(tensors, TENSORWISE, _BOTH)
        return runs

    def _products(self, tensors: tuple[Tensor, Tensor, Tensor], recipe: str | None, cast: Collection[str]) -> Run:
        """With `cast` cast in the pass where it is needed, and the others beforehand, by the op that makes them."""
        x, master, gradient = tensors

        def cast_x() -> Operand:
            return plain(x) if recipe is None else self.pieces.cast(x, self._by(recipe, E4M3))

        def cast_gradient() -> Operand:
            return plain(gradient) if recipe is None else self.pieces.cast(gradient, self._by(recipe, self.gradients))

        weight = plain(master.to(x.dtype)) if recipe is None else self.pieces.cast(master, self._by(recipe, E4M3))
        ready_x, ready_gradient = cast_x(), cast_gradient()
        # in fp8 in the dtype of the master; in bf16 as under autocast, whose cast to fp32 is not counted against it
        wide = torch.bfloat16 if recipe is None else torch.float32

        def forward() -> tuple[Operand, Tensor]:
            operand = cast_x() if "input" in cast else ready_x
            return operand, product(operand.rows, weight.rows, torch.bfloat16, simulate=False, fast=True)

        def both() -> object:
            operand, y = forward()
            back = cast_gradient() if "gradient" in cast else ready_gradient
            of_x = product(back.rows, weight.columns, torch.bfloat16, simulate=False, fast=False)
            return y, of_x, product(back.columns, operand.columns, wide, simulate=False, fast=False)

        return Run(forward, both)

    def norm(self) -> dict[str, Run]:
        """RMSNorm of stream + update to an operand; backward the gradient of both, that of the update as an operand."""
        dtype, size = self.place.dtype, (self.place.shapes.tokens, self.place.shapes.hidden_size)
        stream_dtype = self.place.stream_dtype
        x, stream_gradient = (self._normal(*size, dtype=stream_dtype) for _ in range(2))
        update, normed_gradient = (self._normal(*size, dtype=dtype) for _ in range(2))
        weight = 1 + self._normal(size[1], dtype=torch.float32, scale=0.25)

        def forward(by: Quantisation) -> tuple[Operand, object]:
            stream, operand, inverse_rms = self.pieces.add_rms_norm(
                x, update, weight, _EPSILON, by, stream_dtype=stream_dtype, dtype=dtype
            )
            return operand, (stream, inverse_rms)

        def backward(kept: tuple[Tensor, Tensor], by: Quantisation) -> tuple[Operand, object]:
            stream, inverse_rms = kept
            gradient, of_update, of_weight = self.pieces.add_rms_norm_backward(
                normed_gradient, stream_gradient, stream, weight, inverse_rms, by, dtype=dtype
            )
            return of_update, (gradient, of_weight)

        return self._producer(forward, backward)

    def swiglu(self) -> dict[str, Run]:
        """SwiGLU to an operand; backward the gradient of gate and up as an operand."""
        dtype, tokens, width = self.place.dtype, self.place.shapes.tokens, self.place.shapes.intermediate_size
        gate_up, gradient = self._normal(tokens, 2 * width, dtype=dtype), self._normal(tokens, width, dtype=dtype)
        return self._producer(
            lambda by: (self.pieces.swiglu(gate_up, by, dtype=dtype), None),
            lambda _, by: self.pieces.swiglu_backward(gate_up, gradient, by, None),
        )

    def _producer(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> dict[str, Run]:
        """An op that makes an operand in each pass: in bf16, with casts behind it, and with casts on its way."""

        def run(there: Quantisation, back: Quantisation, after: Sequence[Quantisation | None] = (None, None)) -> Run:
            def first() -> tuple[Operand, Any]:
                operand, kept = forward(there)
                return self._cast_after(operand, after[0]), kept

            def both() -> object:
                operand, kept = first()
                gradient, others = backward(kept, back)
                return operand, self._cast_after(gradient, after[1]), others

            return Run(first, both)

        narrow, known = Quantisation(None), [self._by(DELAYED, format) for format in (E4M3, self.gradients)]
        return {
            BF16: run(narrow, narrow),
            PLAIN_THEN_CAST: run(narrow, narrow, known),
            FUSED: run(known[0], known[1]),
            TENSORWISE: run(self._by(TENSORWISE, E4M3), self._by(TENSORWISE, self.gradients)),
        }

    def casts(self, inputs: Sequence[int], gradients: Sequence[int]) -> dict[str, Run]:
        """Casts in passes of their own: of tensors of the widths `inputs` forward, of `gradients` backward."""
        tokens = self.place.shapes.tokens
        there, back = ([self._normal(tokens, width) for width in widths] for widths in (inputs, gradients))

        def run(recipe: str) -> Run:
            def cast(tensors: list[Tensor], format: Format) -> list[Operand]:
                return [self.pieces.cast(x, self._by(recipe, format)) for x in tensors]

            return Run(lambda: cast(there, E4M3), lambda: (cast(there, E4M3), cast(back, self.gradients)))

        return {recipe: run(recipe) for recipe in RECIPES}

    def weights(self, sizes: Sequence[tuple[int, int]]) -> dict[str, Run]:
        """The weights of a block, (N, K) each, from fp32: to bf16 as autocast does in each micro-batch, and to fp8."""
        weights = [self._normal(*size, dtype=torch.float32, scale=size[1] ** -0.5) for size in sizes]

        def cast(recipe: str) -> list[Any]:
            if recipe == BF16:
                return [weight.to(torch.bfloat16) for weight in weights]
            return [self.pieces.cast(weight, self._by(recipe, E4M3)) for weight in weights]

        return {name: Run(partial(cast, name), partial(cast, name)) for name in (BF16, *RECIPES)}

    def _by(self, recipe: str, format: Format) -> Quantisation:
        """As `litespark.ops.fp8.scaling` makes them; `delayed` has its scale."""
        return Quantisation(format, scale=self._scales[format.name] if recipe == DELAYED else None, amax=self._amax)

    def _cast_after(self, operand: Operand, by: Quantisation | None) -> Operand:
        if by is None:
            return operand
        assert operand.rows is not None
        return self.pieces.cast(operand.rows.values, by)

    def _normal(self, *size: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
        return (torch.randn(size, generator=self._generator, device=self.place.device) * scale).to(dtype)
