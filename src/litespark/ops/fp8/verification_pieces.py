"""The pieces of blocks in fp8 as a step calls them: inputs of its dtypes and widths, and the ways of asking.

R rows (tokens), D hidden size, F intermediate size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, Format, power_of_two_scale
from litespark.ops.fp8.operands import Operand, Quantisation
from litespark.ops.fp8.reference import PIECES as REFERENCE
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import LINEARS, RECIPES, Fp8Config
from litespark.ops.shapes import Place

# what a layer may be beside in fp8 by a recipe
PLAIN = "not in fp8"
EPSILON = 1e-5
# of the scale that just takes a tensor's largest value: with it a share of the values saturates
_TOO_SMALL = 0.25
# of a weight: the sizes of the largest models would take gigabytes
_MOST_OUTPUTS = 1024
# of values that a cast to e4m3 loses beside usual ones, and one to e5m2
_FAINT, _FAINTER = 2.0**-20, 2.0**-33

Inputs = dict[str, Tensor]
# what a piece returned: "operand" by the quantisation, "product" by that of the product made again, the rest by name
Results = dict[str, Tensor | Operand | None]
# (pieces, inputs, quantisation, quantisation of the product made again, dtype where nothing is fused)
Call = Callable[[Pieces, Inputs, Quantisation, Quantisation | None, torch.dtype], Results]


def kinds_of(config: Fp8Config | None) -> tuple[str, ...]:
    """What a layer may be in a run with these settings, or in any run."""
    if config is None:
        return (*RECIPES, PLAIN)
    # nothing is known of a tensor at first: then `delayed` is tensorwise
    recipes = RECIPES if config.recipe == "delayed" else (config.recipe,)
    some_plain = config.adaptive.fallback != "none" or set(config.linears) != set(LINEARS)
    return (*recipes, PLAIN) if some_plain else recipes


@dataclass(frozen=True)
class Way:
    """One call of a piece."""

    name: str  # "" for the usual one
    quantisation: Quantisation  # without amax and counts
    again: Quantisation | None = None  # of the product of the forward pass; None: it is not made again
    without: str | None = None  # an input that is left out
    finite: bool = True  # inputs are as they should be; else they have an infinity and a NaN
    noted: bool = True  # amax is wanted
    counted: bool = False  # and counts are, as every few steps

    def noting(self, device: torch.device) -> Quantisation:
        """The quantisation with places of its own for what is noted."""
        if not self.noted:
            return self.quantisation
        amax = torch.zeros((), dtype=torch.int32, device=device)
        counts = torch.zeros(2, dtype=torch.int64, device=device) if self.counted else None
        return replace(self.quantisation, amax=amax, counts=counts)


@dataclass(frozen=True)
class Piece:
    """A piece at the sizes of a run."""

    name: str  # of the method
    sizes: str  # in words
    inputs: Inputs  # as a step has them; the first is spoilt to see what becomes of infinity and NaN
    formats: tuple[Format, ...]  # that it is asked for, the usual one first
    call: Call
    optional: str | None = None  # an input that a step may do without; None: there is none
    of_gradient: bool = False  # what it hands over is a gradient
    makes_again: bool = False  # whether it makes the product of the forward pass again where asked to
    exact: bool = False  # it does nothing but cast

    def ways(self, kind: str, others: tuple[str, ...] = ()) -> Iterator[Way]:
        """How a step may ask for it where a layer is of that kind; the layer beside it may be of one of the others."""
        if kind == PLAIN:
            yield Way("", Quantisation(None), Quantisation(None) if self.makes_again else None, noted=False)
            return
        amax, again_amax = self._amaxes() if kind == "delayed" else (None, None)

        def known(amax: Tensor | None, format: Format) -> Tensor | None:
            """A scale that is known beforehand, a little too small."""
            return None if amax is None else power_of_two_scale(amax, format) * _TOO_SMALL

        usual = Quantisation(self.formats[0], known(amax, self.formats[0]))
        again = Quantisation(E4M3, known(again_amax, E4M3), rows=False) if self.makes_again else None
        yield Way("", usual, again)
        yield Way("counted", usual, again, counted=True)
        yield Way("not finite", usual, again, finite=False)
        if not (self.exact or kind == "delayed"):
            return  # passes of their own, which the cast's verification asks for in all ways
        for format in self.formats[1:]:
            yield Way(format.name, Quantisation(format, known(amax, format)), again)
        # of an input in validation, of a gradient where the weight is frozen
        yield Way("rows only", replace(usual, columns=False), noted=self.of_gradient)
        if self.exact:
            yield Way("columns only", replace(usual, rows=False), noted=False)  # the product made again
        if self.optional is not None:
            yield Way(f"without {self.optional}", usual, again, without=self.optional)
        if self.makes_again and "tensorwise" in others:
            yield Way("product tensorwise", usual, Quantisation(E4M3, rows=False))
        if self.makes_again and PLAIN in others:
            yield Way("product not in fp8", usual, Quantisation(None))
            yield Way("product alone", Quantisation(None), again, noted=False)

    def _amaxes(self) -> list[Tensor]:
        """The largest value of the operand, and of the product where it is made again."""
        wide = {name: x.float() for name, x in self.inputs.items()}
        again = Quantisation(None) if self.makes_again else None
        results = self.call(REFERENCE, wide, Quantisation(None), again, torch.float32)
        operands = results["operand"], results["product" if self.makes_again else "operand"]
        return [operand.rows.values.abs().max() for operand in operands]  # type: ignore[union-attr]  # operands, with rows


def pieces_to_verify(place: Place, gradients: tuple[Format, ...]) -> Iterator[Piece]:
    """All pieces with random inputs, one after the other; `gradients` are the formats of gradients."""
    shapes, device, dtype, stream_dtype = place.shapes, place.device, place.dtype, place.stream_dtype
    weight_dtype = torch.float32 if place.autocast else dtype
    rows, hidden_size, intermediate_size = (
        shapes.sequences * shapes.length,
        shapes.hidden_size,
        shapes.intermediate_size,
    )
    generator = torch.Generator(device=device).manual_seed(0)

    def normal(*size: int, to: torch.dtype = dtype, faint_rows: bool = False, faint_columns: bool = False) -> Tensor:
        values = torch.randn(size, generator=generator, device=device)
        for lines in [values] * faint_rows + [values.transpose(0, -1)] * faint_columns:
            lines[::8] *= _FAINT
            lines[4::8] *= _FAINTER
        return values.to(to)

    all_formats = tuple(dict.fromkeys((E4M3, *gradients)))
    at_hidden_size, at_intermediate_size = f"{rows} x {hidden_size}", f"{rows} x {intermediate_size}"
    x = normal(rows, hidden_size, faint_rows=True, faint_columns=True)
    x = torch.cat([x, torch.zeros_like(x[:, :16])], dim=1)[:, :hidden_size]  # rows apart, as those of a slice are
    yield Piece("cast of activations", at_hidden_size, {"x": x}, all_formats, _cast, exact=True)
    outputs = min(hidden_size, _MOST_OUTPUTS)
    weight = normal(outputs, intermediate_size, to=torch.float32, faint_rows=True, faint_columns=True)
    yield Piece("cast of weights", f"{outputs} x {intermediate_size}", {"x": weight}, (E4M3,), _cast, exact=True)
    stream = normal(rows, hidden_size, to=stream_dtype)
    norm_weight = normal(hidden_size, to=weight_dtype, faint_rows=True)
    inputs = {"x": stream, "update": normal(rows, hidden_size), "weight": norm_weight}
    yield Piece("add_rms_norm", at_hidden_size, inputs, (E4M3,), _add_rms_norm, optional="update")
    inputs = {
        "norm_gradient": normal(rows, hidden_size, faint_rows=True),
        "stream_gradient": normal(rows, hidden_size, to=stream_dtype, faint_rows=True),
        "stream": stream,
        "weight": normal(hidden_size, to=weight_dtype),
    }
    yield Piece("add_rms_norm_backward", at_hidden_size, inputs, gradients, _add_rms_norm_backward,
                optional="stream_gradient", of_gradient=True)  # fmt: skip
    gate_up = torch.cat([normal(rows, intermediate_size), normal(rows, intermediate_size, faint_rows=True)], dim=1)
    yield Piece("swiglu", at_intermediate_size, {"gate_up": gate_up}, (E4M3,), _swiglu)
    inputs = {"product_gradient": normal(rows, intermediate_size, faint_rows=True), "gate_up": gate_up}
    yield Piece(
        "swiglu_backward", at_intermediate_size, inputs, gradients, _swiglu_backward, of_gradient=True, makes_again=True
    )


def spoilt(x: Tensor) -> Tensor:
    """With an infinity in the first row and a NaN in the last."""
    x = x.clone()
    x[0, 0], x[-1, -1] = float("inf"), float("nan")
    return x


def _cast(pieces: Pieces, inputs: Inputs, quantisation: Quantisation, *_: object) -> Results:
    return {"operand": pieces.cast(inputs["x"], quantisation)}


def _swiglu(pieces: Pieces, inputs: Inputs, quantisation: Quantisation, _: object, dtype: torch.dtype) -> Results:
    return {"operand": pieces.swiglu(inputs["gate_up"], quantisation, dtype=dtype)}


def _add_rms_norm(pieces: Pieces, inputs: Inputs, quantisation: Quantisation, _: object, dtype: torch.dtype) -> Results:
    x = inputs["x"]
    stream, operand, inverse_rms = pieces.add_rms_norm(
        x, inputs.get("update"), inputs["weight"], EPSILON, quantisation, stream_dtype=x.dtype, dtype=dtype
    )
    return {"operand": operand, "stream": stream, "inverse_rms": inverse_rms}


def _add_rms_norm_backward(
    pieces: Pieces, inputs: Inputs, quantisation: Quantisation, _: object, dtype: torch.dtype
) -> Results:
    stream = inputs["stream"]
    inverse_rms = torch.rsqrt(stream.float().square().mean(dim=-1) + EPSILON)
    incoming = inputs["norm_gradient"], inputs.get("stream_gradient")
    gradient, operand, weight_gradient = pieces.add_rms_norm_backward(
        *incoming, stream, inputs["weight"], inverse_rms, quantisation, dtype=dtype
    )
    return {"operand": operand, "gradient of stream": gradient, "gradient of weight": weight_gradient}


def _swiglu_backward(
    pieces: Pieces, inputs: Inputs, quantisation: Quantisation, again: Quantisation | None, _: object
) -> Results:
    operand, product = pieces.swiglu_backward(inputs["gate_up"], inputs["product_gradient"], quantisation, again)
    return {"operand": operand, "product": product}
