"""What is timed of fp8: products with their casts, the ops that cast on their way, and casts by themselves.

Everything is called through `Pieces` as a block calls it. T tokens of a micro-batch, K features in, N features out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from litespark.benchmarks.ops.contenders import Run
from litespark.metrics.records.ops import BF16
from litespark.ops.fp8.formats import E4M3, FORMATS, Format
from litespark.ops.fp8.operands import Matrix, Operand, Quantisation, plain, product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import RECIPES
from litespark.ops.shapes import Place, StepShapes
from litespark.planning.fp8_casts import FUSED_CASTS

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


class Quantisations:
    """How tensors are asked for: by a recipe, with its amax noted as in every step; counts are sampled, and not here.

    Args:
        device: where scales and amax lie.
    """

    def __init__(self, device: torch.device) -> None:
        self._scales = {name: torch.tensor(scale, device=device) for name, scale in _SCALES.items()}
        self._amax = torch.zeros((), dtype=torch.int32, device=device)

    def by(self, recipe: str, format: Format) -> Quantisation:
        """As `litespark.ops.fp8.scaling` gives them out; `delayed` knows its scale."""
        scale = self._scales[format.name] if recipe == DELAYED else None
        return Quantisation(format, scale=scale, amax=self._amax)


class Inputs:
    """Random tensors of one device, the same for the same order of calls."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *size: int, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
        """Normally distributed."""
        return (torch.randn(size, generator=self.generator, device=self.device) * scale).to(dtype)


class Linear:
    """A linear layer: its three products, with such casts as a recipe makes in each micro-batch.

    Its weight is cast beforehand, as it is once a step, and in bf16 as well.

    Args:
        name: "qkv"; None: one that stands alone, with no op around it to cast on its way.
        tokens, inputs, outputs: T, K, N.
        pieces: that cast.
        gradients: format of the gradient.
    """

    def __init__(
        self,
        name: str | None,
        tokens: int,
        inputs: int,
        outputs: int,
        pieces: Pieces,
        gradients: str,
        device: torch.device,
    ) -> None:
        random = Inputs(device)
        self.name = name
        self.pieces = pieces
        self.gradients = FORMATS[gradients]
        self.quantisations = Quantisations(device)
        self.x = random.normal(tokens, inputs)
        self.gradient = random.normal(tokens, outputs)
        self.master = random.normal(outputs, inputs, dtype=torch.float32, scale=inputs**-0.5)

    def runs(self) -> dict[str, Run]:
        """By name, bf16 first."""
        found = {BF16: self._in_bf16(), PRODUCTS: self._by(DELAYED, cast=())}
        if self.name is not None:
            found[DELAYED] = self._by(DELAYED, cast=[each for each in ("input", "gradient") if not self._fused(each)])
        for name, recipe in ((APART, DELAYED), (TENSORWISE, TENSORWISE)):
            found[name] = self._by(recipe, cast=("input", "gradient"))
        return found

    def single_products(self) -> dict[str, Callable[[], object]]:
        """Each of the three products, in bf16 and in fp8."""
        found: dict[str, Callable[[], object]] = {}
        for kind, x, weight, gradient in ((BF16, *self._plain()), ("fp8", *self._codes(DELAYED))):
            found |= {
                f"{kind} y": partial(_forward, x, weight),
                f"{kind} gradient of x": partial(_of_x, gradient, weight),
                f"{kind} gradient of W": partial(_of_weight, gradient, x),
            }
        return found

    def _fused(self, tensor: str) -> bool:
        return f"{self.name}.{tensor}" in FUSED_CASTS

    def _plain(self) -> tuple[Operand, Operand, Operand]:
        return plain(self.x), plain(self.master.to(self.x.dtype)), plain(self.gradient)

    def _codes(self, recipe: str) -> tuple[Operand, Operand, Operand]:
        cast = self.pieces.cast
        inputs, gradients = self.quantisations.by(recipe, E4M3), self.quantisations.by(recipe, self.gradients)
        return cast(self.x, inputs), cast(self.master, inputs), cast(self.gradient, gradients)

    def _in_bf16(self) -> Run:
        x, weight, gradient = self._plain()

        def both() -> object:
            return _forward(x, weight), _of_x(gradient, weight), _of_weight(gradient, x)

        return Run(lambda: _forward(x, weight), both)

    def _by(self, recipe: str, cast: tuple[str, ...] | list[str]) -> Run:
        """With `cast` cast in the pass where it is needed, and the others beforehand, by the op that makes them."""
        ready_x, weight, ready_gradient = self._codes(recipe)
        inputs, gradients = self.quantisations.by(recipe, E4M3), self.quantisations.by(recipe, self.gradients)

        def forward() -> tuple[Operand, Tensor]:
            x = self.pieces.cast(self.x, inputs) if "input" in cast else ready_x
            return x, _forward(x, weight)

        def both() -> object:
            x, y = forward()
            gradient = self.pieces.cast(self.gradient, gradients) if "gradient" in cast else ready_gradient
            return y, _of_x(gradient, weight), _of_weight(gradient, x)

        return Run(forward, both)


def _forward(x: Operand, weight: Operand) -> Tensor:
    return product(x.rows, weight.rows, torch.bfloat16, simulate=False, fast=True)


def _of_x(gradient: Operand, weight: Operand) -> Tensor:
    return product(gradient.rows, weight.columns, torch.bfloat16, simulate=False, fast=False)


def _of_weight(gradient: Operand, x: Operand) -> Tensor:
    # in fp8 in the dtype of the master; in bf16 as under autocast, whose cast to fp32 is not counted against it
    wide = torch.float32 if _is_code(gradient.columns) else torch.bfloat16
    return product(gradient.columns, x.columns, wide, simulate=False, fast=False)


def _is_code(matrix: Matrix | None) -> bool:
    assert matrix is not None
    return matrix.in_fp8


def norm_runs(place: Place, pieces: Pieces, gradients: str) -> dict[str, Run]:
    """RMSNorm of stream + update to an operand; backward the gradient of both, that of the update as an operand."""
    shapes, dtype = place.shapes, place.dtype
    stream_dtype = torch.float32 if place.autocast else dtype
    random, size = Inputs(place.device), (_tokens(shapes), shapes.hidden_size)
    x, update = random.normal(*size, dtype=stream_dtype), random.normal(*size, dtype=dtype)
    weight = 1 + random.normal(shapes.hidden_size, dtype=torch.float32, scale=0.25)
    normed_gradient, stream_gradient = random.normal(*size, dtype=dtype), random.normal(*size, dtype=stream_dtype)

    def forward(quantisation: Quantisation) -> tuple[Tensor, Operand, Tensor]:
        return pieces.add_rms_norm(x, update, weight, _EPSILON, quantisation, stream_dtype=stream_dtype, dtype=dtype)

    def backward(stream: Tensor, inverse_rms: Tensor, quantisation: Quantisation) -> tuple[Tensor, Operand, Tensor]:
        return pieces.add_rms_norm_backward(
            normed_gradient, stream_gradient, stream, weight, inverse_rms, quantisation, dtype=dtype
        )

    def run(
        quantisation: Quantisation,
        back: Quantisation,
        after: Quantisation | None = None,
        after_back: Quantisation | None = None,
    ) -> Run:
        def there() -> tuple[Tensor, Operand, Tensor]:
            stream, operand, inverse_rms = forward(quantisation)
            return stream, _cast_after(pieces, operand, after), inverse_rms

        def both() -> object:
            stream, operand, inverse_rms = there()
            gradient, of_update, of_weight = backward(stream, inverse_rms, back)
            return operand, gradient, _cast_after(pieces, of_update, after_back), of_weight

        return Run(there, both)

    return _producer_runs(run, Quantisations(place.device), FORMATS[gradients])


def swiglu_runs(place: Place, pieces: Pieces, gradients: str) -> dict[str, Run]:
    """SwiGLU to an operand; backward the gradient of gate and up as an operand."""
    shapes, dtype = place.shapes, place.dtype
    random, tokens = Inputs(place.device), _tokens(shapes)
    gate_up = random.normal(tokens, 2 * shapes.intermediate_size, dtype=dtype)
    product_gradient = random.normal(tokens, shapes.intermediate_size, dtype=dtype)

    def run(
        quantisation: Quantisation,
        back: Quantisation,
        after: Quantisation | None = None,
        after_back: Quantisation | None = None,
    ) -> Run:
        def there() -> Operand:
            return _cast_after(pieces, pieces.swiglu(gate_up, quantisation, dtype=dtype), after)

        def both() -> object:
            operand = there()
            gradient, _ = pieces.swiglu_backward(gate_up, product_gradient, back, None)
            return operand, _cast_after(pieces, gradient, after_back)

        return Run(there, both)

    return _producer_runs(run, Quantisations(place.device), FORMATS[gradients])


def _producer_runs(run: Callable[..., Run], quantisations: Quantisations, gradients: Format) -> dict[str, Run]:
    narrow, known = Quantisation(None), [quantisations.by(DELAYED, each) for each in (E4M3, gradients)]
    found = {BF16: run(narrow, narrow), PLAIN_THEN_CAST: run(narrow, narrow, *known), FUSED: run(*known)}
    found[TENSORWISE] = run(*(quantisations.by(TENSORWISE, each) for each in (E4M3, gradients)))
    return found


def _cast_after(pieces: Pieces, operand: Operand, quantisation: Quantisation | None) -> Operand:
    if quantisation is None:
        return operand
    assert operand.rows is not None
    return pieces.cast(operand.rows.values, quantisation)


def cast_runs(place: Place, widths: tuple[list[int], list[int]], pieces: Pieces, gradients: str) -> dict[str, Run]:
    """Casts in passes of their own: of tensors with the first of `widths` forward, with the second backward."""
    random, quantisations = Inputs(place.device), Quantisations(place.device)
    inputs, back = ([random.normal(_tokens(place.shapes), width) for width in each] for each in widths)

    def run(recipe: str) -> Run:
        first, second = quantisations.by(recipe, E4M3), quantisations.by(recipe, FORMATS[gradients])

        def forward() -> list[Operand]:
            return [pieces.cast(each, first) for each in inputs]

        return Run(forward, lambda: (forward(), [pieces.cast(each, second) for each in back]))

    return {recipe: run(recipe) for recipe in RECIPES}


def weight_runs(sizes: list[tuple[int, int]], pieces: Pieces, device: torch.device) -> dict[str, Run]:
    """The weights of a block, (N, K) each, from fp32: to bf16 as autocast does in each micro-batch, and to fp8."""
    random, quantisations = Inputs(device), Quantisations(device)
    weights = [random.normal(*size, dtype=torch.float32, scale=size[1] ** -0.5) for size in sizes]

    def run(recipe: str) -> Run:
        quantisation = quantisations.by(recipe, E4M3)

        def cast() -> object:
            return [pieces.cast(each, quantisation) for each in weights]

        return Run(cast, cast)

    def narrow() -> object:
        return [each.to(torch.bfloat16) for each in weights]

    return {BF16: Run(narrow, narrow), **{recipe: run(recipe) for recipe in RECIPES}}


def _tokens(shapes: StepShapes) -> int:
    return shapes.rows * shapes.length
