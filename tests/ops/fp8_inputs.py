"""Inputs and comparisons that tests of fp8 share."""

from fractions import Fraction

import torch
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2, Format
from litespark.ops.fp8.operands import Operand, Quantisation

# what `torch.float32` has where something changes: both sides of each power of two, of 0.875 of it, and the ends
_EXPONENTS = torch.arange(-148.0, 128.0, dtype=torch.float64)
_TURNS = torch.cat([torch.exp2(_EXPONENTS), 0.875 * torch.exp2(_EXPONENTS)]).float()
_SPECIAL = torch.tensor([0.0, 1e-45, torch.finfo(torch.float32).max, float("inf"), float("nan")])
EDGES = torch.cat([_TURNS, *(torch.nextafter(_TURNS, torch.tensor(to)) for to in (0.0, float("inf"))), _SPECIAL])


def value_of_code(format: Format, code: int) -> Fraction | None:
    """What a code from 0 to 127 stands for by the standard, arXiv:2209.05433; None where it is no number."""
    mantissa_bits, bias = {"e4m3": (3, 7), "e5m2": (2, 15)}[format.name]
    exponent, mantissa = code >> mantissa_bits, code % 2**mantissa_bits
    if (format is E4M3 and code == 127) or (format is E5M2 and exponent == 31):
        return None
    if exponent == 0:
        return Fraction(mantissa, 2**mantissa_bits) * Fraction(2) ** (1 - bias)
    return (1 + Fraction(mantissa, 2**mantissa_bits)) * Fraction(2) ** (exponent - bias)


def every_value(dtype: torch.dtype) -> Tensor:
    """All 65536 of bf16 or fp16, NaN and infinities too."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def quantisation(kind: str, format: Format, device: torch.device, scale: float = 0.25, **wanted: bool) -> Quantisation:
    """One of "known", "tensor" and "plain", with an amax and counts that have something in them."""
    amax = torch.ones((), dtype=torch.int32, device=device)
    counts = torch.tensor([3, 5], dtype=torch.int64, device=device)
    if kind == "plain":
        return Quantisation(None)
    known = torch.tensor(scale, device=device) if kind == "known" else None
    return Quantisation(format, known, amax=amax, counts=counts, **wanted)


def parts(operand: Operand) -> dict[str, Tensor | None]:
    """Codes as bytes and scales, by name."""
    found: dict[str, Tensor | None] = {}
    for name, matrix in (("rows", operand.rows), ("columns", operand.columns)):
        in_fp8 = matrix is not None and matrix.in_fp8
        values = None if matrix is None else matrix.values
        found[name] = values.view(torch.uint8) if in_fp8 and values is not None else values
        found[f"{name} scale"] = None if matrix is None else matrix.scale
    return found


def assert_same(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    """Bit for bit, and the same shapes; the failure names all that differ."""
    assert actual.keys() == expected.keys()
    different = [name for name in expected if not _same(actual[name], expected[name])]
    assert not different, {name: (actual[name], expected[name]) for name in different}


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.is_floating_point():
        return one.shape == other.shape and torch.equal(one.nan_to_num(-7.0), other.nan_to_num(-7.0))
    return torch.equal(one, other)
