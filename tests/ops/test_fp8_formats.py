"""The fp8 formats, scales and casts against arithmetic that shares nothing with them: every bf16 value, every edge."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from litespark.ops.fp8.formats import (
    E4M3,
    E5M2,
    FORMATS,
    amax_bits,
    power_of_two_scale,
    quantised,
    saturation_and_underflow,
)
from litespark.ops.fp8.operands import Matrix
from tests.ops.fp8_inputs import EDGES, around_ties, every_value, value_of_code

BOTH = pytest.mark.parametrize("format", [E4M3, E5M2], ids=lambda format: format.name)
NAN = 0x7F
INFINITY, NOT_A_NUMBER = 0x7F800000, 0x7FC00000


def _positive(format):
    """All finite values from zero up, as the standard defines them: code n is the n-th of them."""
    values = [value_of_code(format, code) for code in range(128)]
    return np.array([float(value) for value in values if value is not None])


def _expected_codes(values, scale, format):
    """Nearest value, ties to the even code, by looking between which two midpoints a value lies; in fp64."""
    table = _positive(format)
    scaled = values.double().numpy() / scale
    size = np.abs(scaled)
    midpoints = (table[1:] + table[:-1]) / 2  # exact in fp64
    codes = np.searchsorted(midpoints, size, side="left")
    tie = (codes < len(midpoints)) & (midpoints[np.minimum(codes, len(midpoints) - 1)] == size)
    codes = np.where(tie & (codes % 2 == 1), codes + 1, codes)
    codes = np.where(np.signbit(scaled), codes | 0x80, codes)
    # what fp32 has no number for is infinite
    infinite = ~np.isfinite(size) | (size > torch.finfo(torch.float32).max)
    return torch.from_numpy(np.where(infinite, NAN, codes).astype(np.uint8))


@BOTH
def test_the_constants_are_those_of_the_formats(format):
    table = _positive(format)
    assert FORMATS[format.name] is format
    assert format.largest == table[-1] == 0.875 * 2.0**format.top_exponent == torch.finfo(format.dtype).max
    assert 2.0**-format.mantissa_bits == torch.finfo(format.dtype).eps
    assert format.smallest == table[1] == torch.finfo(format.dtype).tiny * torch.finfo(format.dtype).eps


@BOTH
def test_codes_mean_what_the_standard_says(format):
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype)
    for scale in (None, torch.tensor(2.0**-20)):
        for code, value in enumerate(Matrix(codes, scale).wide().tolist()):
            expected = value_of_code(format, code % 128)
            if expected is None:
                assert not math.isfinite(value)
            else:
                sign = -1 if code >= 128 else 1
                assert Fraction(value) == sign * expected * (1 if scale is None else Fraction(2) ** -20)


@BOTH
@pytest.mark.parametrize("exponent", [-126, 0, 3, 126])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_is_cast_to_the_nearest_and_ties_go_to_the_even_code(format, exponent, dtype):
    values = every_value(dtype)
    codes = quantised(values, torch.tensor(2.0**exponent), format)
    assert codes.dtype == format.dtype
    # a scale that is none leaves nothing to train on
    assert bool(quantised(values, torch.tensor(math.nan), format).float().isnan().all())
    assert torch.equal(codes.view(torch.uint8), _expected_codes(values, 2.0**exponent, format))


@BOTH
def test_values_around_every_tie_are_cast_to_the_nearest(format):
    values = around_ties(format)
    codes = quantised(values, torch.tensor(1.0), format).view(torch.uint8)
    assert torch.equal(codes, _expected_codes(values, 1.0, format))
    # a planted fault: the same after a detour through bf16, which rounds twice
    twice = quantised(values.bfloat16(), torch.tensor(1.0), format).view(torch.uint8)
    assert not torch.equal(twice, _expected_codes(values, 1.0, format))


# ---------------------------------------------------------------- scales


@BOTH
def test_scales_are_the_smallest_powers_of_two_that_suffice(format):
    found = power_of_two_scale(EDGES, format)
    for amax, scale in zip(EDGES.tolist(), found.tolist(), strict=True):
        if not math.isfinite(amax):
            assert math.isnan(scale)
            continue
        assert math.frexp(scale)[0] == 0.5
        assert 1 / scale >= torch.finfo(torch.float32).tiny
        if amax == 0:
            assert scale == 1
            continue
        largest = Fraction(format.largest)
        assert Fraction(amax) <= largest * Fraction(scale)
        assert scale == 2.0**-126 or Fraction(amax) > largest * Fraction(scale) / 2
        assert scale <= 2.0**126


# ---------------------------------------------------------------- largest values


def test_bits_of_the_largest_value_keep_infinity_and_nan():
    def found(*values):
        return amax_bits(torch.tensor(values)).item()

    assert found(0.0, -0.0) == 0
    assert found(1.0, -3.5) == torch.tensor(3.5).view(torch.int32).item()
    assert found(1e38, -math.inf, 2.0) == INFINITY
    # NaN wins wherever it stands, and whatever its sign and bits are
    assert found(math.inf, math.nan, 2.0) == NOT_A_NUMBER
    negative = torch.tensor([-1, 0x7F800000], dtype=torch.int32).view(torch.float32)
    assert amax_bits(negative).item() == 0x7FFFFFFF
    assert found(1e-45) == 1
    assert amax_bits(torch.empty(0, 3)).item() == 0


# ---------------------------------------------------------------- losses of a cast


@BOTH
@pytest.mark.parametrize("exponent", [-126, 0, 7])
def test_what_a_cast_loses_is_what_its_codes_lost(format, exponent):
    values = every_value(torch.bfloat16)
    scale = torch.tensor(2.0**exponent)
    scaled = values.double() / scale.double()
    # beyond fp32 is infinite, which is NaN in the codes and not counted
    saturated = (scaled.abs() > format.largest) & (scaled.abs() <= torch.finfo(torch.float32).max)
    codes = quantised(values, scale, format).view(torch.uint8)
    zeroed = ((codes & 0x7F) == 0) & (values != 0)
    assert saturation_and_underflow(values, scale, format).tolist() == [saturated.sum().item(), zeroed.sum().item()]
