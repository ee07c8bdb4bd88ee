"""The cast to fp8 in Triton: exact codes and scales at every value and edge; `test_fp8_fused.py` has the rest of it."""

import pytest
import torch

from litespark.ops.fp8.formats import E4M3, E5M2, power_of_two_scale, quantised
from litespark.ops.fp8.kernels import cast, scale_of, store_columns, store_rows
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.rounding.kernels import rounded_to_odd
from tests.ops.fp8_inputs import EDGES, around_ties, assert_same, every_value

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402 it may not be installed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOTH = pytest.mark.parametrize("format", [E4M3, E5M2], ids=lambda format: format.name)
# the interpreter is NumPy, which tells where infinities and NaN come from
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


@BOTH
@pytest.mark.parametrize("exponent", [-126, 0, 126])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_value_gets_the_code_of_the_specification(format, exponent, dtype):
    """In fp32: values around every tie."""
    values = (around_ties(format) if dtype == torch.float32 else every_value(dtype).view(256, 256)).to(DEVICE)
    if DEVICE.type == "cpu" and dtype == torch.bfloat16:
        # Triton's interpreter makes other numbers of what is below the normal values of bf16
        values = torch.where(values.abs() < torch.finfo(dtype).tiny, torch.zeros_like(values), values)
    scale = torch.tensor(2.0**exponent, device=DEVICE)
    operand = cast(values, Quantisation(format, scale))
    expected = quantised(values, scale, format).view(torch.uint8)
    assert torch.equal(operand.rows.values.view(torch.uint8), expected)
    assert torch.equal(operand.columns.values.view(torch.uint8), expected.T)


@triton.jit
def _scale_kernel(bits, found, MANTISSA_BITS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(found + place, scale_of(tl.load(bits + place), MANTISSA_BITS))


@BOTH
def test_scales_from_bits_are_exact_at_every_edge(format):
    amax = torch.cat([EDGES, torch.zeros(-len(EDGES) % 256)]).to(DEVICE)
    found = torch.full_like(amax, -1.0)
    _scale_kernel[(len(amax) // 256,)](amax.view(torch.int32), found, format.mantissa_bits, 256)
    assert_same({"scale": found}, {"scale": power_of_two_scale(amax, format)})


# ---------------------------------------------------------------- far apart


@triton.jit
def _far_kernel(codes, by_row, by_column, far, TILE: tl.constexpr):
    """A tile of codes into two tensors whose rows are `far` values apart."""
    row, column = tl.arange(0, TILE).to(tl.int64), tl.arange(0, TILE)
    inside = row < 3
    values = tl.load(codes + row[:, None] * TILE + column[None, :])
    store_rows(values, by_row, row, column, inside, column < 3, far)
    store_columns(values, by_column, row, column, inside, column < 3, far)


def test_codes_beyond_two_to_the_31():
    far = 2**30 + 8
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(16, 16)
    by_row, by_column = (torch.empty(2 * far + 3, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    _far_kernel[(1,)](codes, by_row, by_column, far, TILE=16)
    assert torch.equal(by_row.as_strided((3, 3), (far, 1)), codes[:3, :3])
    assert torch.equal(by_column.as_strided((3, 3), (far, 1)), codes[:3, :3].T)


# ---------------------------------------------------------------- rounding where Triton rounds twice


@triton.jit
def _odd_kernel(x, y, MANTISSA_BITS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + place, rounded_to_odd(tl.load(x + place), MANTISSA_BITS))


@BOTH
def test_a_detour_through_fp16_ends_at_the_same_codes_when_rounded_to_odd_first(format):
    """As Triton casts before Hopper; nothing here takes that way, so that it is gone by hand."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.exp2(torch.randint(-20, 16, (2**16,), generator=generator).float())
    values = torch.cat([around_ties(format).flatten(), torch.randn(2**16, generator=generator) * sizes])
    values = values[: len(values) // 4096 * 4096].clamp(-format.largest, format.largest).to(DEVICE)
    odd = torch.empty_like(values)
    _odd_kernel[(len(values) // 4096,)](values, odd, format.mantissa_bits, 4096)
    expected = quantised(values, torch.tensor(1.0, device=DEVICE), format).view(torch.uint8)
    assert torch.equal(odd.half().to(format.dtype).view(torch.uint8), expected)
    # the fault that it mends
    assert not torch.equal(values.half().to(format.dtype).view(torch.uint8), expected)
