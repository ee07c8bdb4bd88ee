"""The cast to fp8 in Triton: exact codes and scales at every value and edge; `test_fp8_fused.py` has the rest of it."""

import pytest
import torch

from litespark.ops.fp8.formats import E4M3, E5M2, power_of_two_scale, quantised
from litespark.ops.fp8.kernels import cast, scale_of, store_rows, store_words
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.reference import PIECES as SPECIFICATION
from tests.ops.fp8_inputs import EDGES, around_ties, assert_same, every_value

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402 it may not be installed

from litespark.ops.fp8.fused import PIECES as FUSED  # noqa: E402

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


@pytest.mark.parametrize("pieces", [SPECIFICATION, FUSED], ids=["reference", "triton"])
@pytest.mark.parametrize("scale", [None, 0.25], ids=["own scale", "known scale"])
def test_a_cast_into_an_operand_makes_the_same_codes_where_they_were(pieces, scale):
    known = None if scale is None else torch.tensor(scale, device=DEVICE)
    old, new = (torch.linspace(-top, top, 48, device=DEVICE).view(3, 16) for top in (1.0, 300.0))
    before = pieces.cast(old, Quantisation(E4M3, known))
    after, expected = (pieces.cast(new, Quantisation(E4M3, known, into=into)) for into in (before, None))
    for mine, kept, wanted in zip(*((it.rows, it.columns) for it in (after, before, expected)), strict=True):
        assert mine.values.data_ptr() == kept.values.data_ptr()
        assert mine.scale.data_ptr() == kept.scale.data_ptr()
        assert_same({"codes": mine.wide()}, {"codes": wanted.wide()})


# ---------------------------------------------------------------- far apart


@triton.jit
def _far_kernel(codes, by_row, by_column, far, WHOLE: tl.constexpr, TILE: tl.constexpr):
    """A tile of codes into a tensor whose rows are `far` values apart, and of words into one."""
    row, column = tl.arange(0, TILE).to(tl.int64), tl.arange(0, TILE)
    values = tl.load(codes + row[:, None] * TILE + column[None, :])
    store_rows(values, by_row, row, column, 3, 3, far)
    four = tl.arange(0, TILE // 4)
    words = tl.load(codes.to(tl.pointer_type(tl.int32)) + column[None, :] * (TILE // 4) + four[:, None])
    store_words(words, by_column, four, column, far, 3, WHOLE)


@pytest.mark.parametrize("whole", [True, False], ids=["words", "bytes"])
def test_codes_beyond_two_to_the_31(whole):
    far = 2**30 + 16
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(16, 16)
    by_row, by_column = (torch.empty(2 * far + 16, dtype=torch.uint8, device=DEVICE) for _ in range(2))
    _far_kernel[(1,)](codes, by_row, by_column, far, WHOLE=whole, TILE=16)
    assert torch.equal(by_row.as_strided((3, 3), (far, 1)), codes[:3, :3])
    assert torch.equal(by_column.as_strided((3, 16), (far, 1)), codes[:3])
