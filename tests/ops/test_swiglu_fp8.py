"""SwiGLU cast to fp8 on its way, forward and backward, against the reference pieces.

Sigmoids differ in their last bits between the two, so that a value beside a tie may end one code away. Where sigmoids
are exact, everything is the same bit for bit.
"""

import math

import pytest
import torch

from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.fused import PIECES as FUSED
from litespark.ops.fp8.kernels import TILE
from litespark.ops.fp8.reference import PIECES as REFERENCE
from tests.ops.fp8_inputs import assert_same, codes_apart, parts, quantisation
from tests.properties import Phase, given, settings, st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# the interpreter is NumPy, which tells where infinities and NaN come from
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
# share of codes that may lie one apart
APART = 1e-3
LAYOUTS = [(True, True), (True, False), (False, True)]


def _inputs(rows, width, dtype=torch.float32, seed=0):
    """gate_up (R, 2F) and the gradient of the product (R, F)."""
    generator = torch.Generator().manual_seed(seed)
    made = [2 * torch.randn(rows, 2 * width, generator=generator), torch.randn(rows, width, generator=generator)]
    return [each.to(DEVICE, dtype) for each in made]


def _exact_inputs(rows, width, dtype=torch.float32, seed=0):
    """The same where sigmoids are 0 or 1 exactly in every way to compute them."""
    gate_up, gradient = _inputs(rows, width, dtype, seed)
    sign = torch.where(gate_up[:, :width] < 0, -1.0, 1.0).to(dtype)
    gate_up[:, :width] = sign * torch.where(gate_up[:, :width].abs() > 1, 128.0, 512.0).to(dtype)
    return gate_up, gradient


def _assert_near(actual, expected, asked, expected_asked, values):
    """Operands, largest values and counts of `values` values."""
    actual, expected = parts(actual), parts(expected)
    for name, found in actual.items():
        if found is None or found.dtype != torch.uint8:
            assert_same({name: found}, {name: expected[name]})
            continue
        assert found.shape == expected[name].shape
        apart = codes_apart(found, expected[name])
        assert apart.max() <= 1
        assert (apart > 0).sum() <= APART * values
    largest, expected_largest = (each.amax.view(torch.float32) for each in (asked, expected_asked))
    assert torch.allclose(largest, expected_largest, rtol=1e-5)
    assert ((asked.counts - expected_asked.counts).abs() <= APART * values).all()
    assert (asked.counts - torch.tensor([3, 5], device=DEVICE) >= 0).all()


# ---------------------------------------------------------------- against the reference


# a failure is not made smaller: that takes minutes in the interpreter
@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    rows=st.integers(1, TILE + 5),
    width=st.integers(1, TILE + 5),
    layouts=st.sampled_from(LAYOUTS),
    again=st.sampled_from([None, *LAYOUTS]),
    gradients=st.sampled_from([E4M3, E5M2]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_size_and_layout_is_exact_where_the_sigmoid_is(rows, width, layouts, again, gradients, dtype):
    gate_up, gradient = _exact_inputs(rows, width, dtype)
    found = []
    for way in (FUSED, REFERENCE):
        asked = [quantisation("known", E4M3, DEVICE, scale=4.0, rows=layouts[0], columns=layouts[1])]
        asked.append(quantisation("known", gradients, DEVICE, scale=2.0**-4, rows=layouts[0], columns=layouts[1]))
        if again is not None:
            asked.append(quantisation("known", E4M3, DEVICE, scale=8.0, rows=again[0], columns=again[1]))
        operands = [way.swiglu(gate_up, asked[0], dtype=dtype)]
        operands += way.swiglu_backward(gate_up, gradient, asked[1], asked[2] if again is not None else None)
        assert (operands[2] is None) == (again is None)
        noted = {f"amax {i}": each.amax for i, each in enumerate(asked)}
        noted |= {f"counts {i}": each.counts for i, each in enumerate(asked)}
        for number, operand in enumerate(operands):
            if operand is not None:
                noted |= {f"{name} {number}": part for name, part in parts(operand).items()}
        found.append(noted)
    assert_same(*found)


def test_results_are_those_of_the_reference():
    gate_up, gradient = _inputs(TILE + 6, TILE + 3, torch.bfloat16)
    asked, expected, again, expected_again = (
        quantisation("known", format, DEVICE, scale=2.0**-7) for format in (E5M2, E5M2, E4M3, E4M3)
    )
    found = FUSED.swiglu_backward(gate_up, gradient, asked, again)
    reference = REFERENCE.swiglu_backward(gate_up, gradient, expected, expected_again)
    _assert_near(found[0], reference[0], asked, expected, gate_up.numel())
    _assert_near(found[1], reference[1], again, expected_again, gradient.numel())
    for operand in found:
        assert torch.equal(operand.columns.values.view(torch.uint8), operand.rows.values.view(torch.uint8).T)
    forward = FUSED.swiglu(gate_up, quantisation("known", E4M3, DEVICE, scale=2.0**-7), dtype=torch.bfloat16)
    assert_same(parts(forward), parts(found[1]))


@pytest.mark.parametrize(("place", "bad"), [("gate", math.inf), ("up", math.nan), ("gradient", math.inf)])
def test_what_is_not_finite_becomes_nan_where_it_does_in_the_reference(place, bad):
    gate_up, gradient = _exact_inputs(3, 5)
    {"gate": gate_up, "up": gate_up[:, 5:], "gradient": gradient}[place][1, 2] = bad
    found = []
    for way in (FUSED, REFERENCE):
        asked, again = quantisation("known", E5M2, DEVICE), quantisation("known", E4M3, DEVICE)
        operands = way.swiglu_backward(gate_up, gradient, asked, again)
        noted = [each.amax.view(torch.float32).isfinite() for each in (asked, again)]
        found.append(parts(operands[0]) | {f"again {name}": part for name, part in parts(operands[1]).items()})
        found[-1] |= {"finite": torch.stack(noted), "counts": asked.counts, "counts again": again.counts}
    assert_same(*found)
    # in the gradient, in the product, or in both
    assert not bool(found[0]["finite"].all())
    assert found[0]["finite"][0] == (0x7F not in found[0]["rows"])


def test_what_lies_behind_the_last_column_is_not_read():
    """Gate and up lie side by side: the columns beyond the last of gate are those of up."""
    gate_up, gradient = _inputs(3, 5)
    asked = quantisation("known", E4M3, DEVICE, scale=2.0**-4)
    alone = FUSED.swiglu_backward(gate_up, gradient, asked, None)[0]
    wide = torch.full((3, 40), math.nan, device=DEVICE)
    wide[:, :10] = gate_up
    wide_gradient = torch.full((3, 40), math.nan, device=DEVICE)
    wide_gradient[:, :5] = gradient
    within = FUSED.swiglu_backward(wide[:, :10], wide_gradient[:, :5], asked, None)[0]
    assert_same(parts(within), parts(alone))
    assert bool(asked.amax.view(torch.float32).isfinite())


def test_largest_values_are_those_of_both_gradients():
    for larger in (0, 1):
        gate_up = torch.tensor([[100.0, 1.0]], device=DEVICE) if larger else torch.tensor([[1.0, 100.0]], device=DEVICE)
        asked, expected = (quantisation("known", E5M2, DEVICE, scale=1.0) for _ in range(2))
        gradient = torch.ones(1, 1, device=DEVICE)
        FUSED.swiglu_backward(gate_up, gradient, asked, None)
        REFERENCE.swiglu_backward(gate_up, gradient, expected, None)
        largest = asked.amax.view(torch.float32).item()
        assert largest == pytest.approx(expected.amax.view(torch.float32).item(), rel=1e-6)
        assert largest > 50


# ---------------------------------------------------------------- strides and sizes


@pytest.mark.parametrize(
    "view",
    [lambda x: x[::2], lambda x: x[:, 3:21], lambda x: x.T, lambda x: x[:1].expand(4, -1), lambda x: x[:, ::2]],
    ids=["rows apart", "columns cut", "transposed", "one row repeated", "columns apart"],
)
def test_strides(view):
    gate_up, gradient = view(_exact_inputs(24, 12)[0]), view(_inputs(24, 12)[0])
    gradient = gradient[:, : gate_up.shape[1] // 2]
    found = []
    for way in (FUSED, REFERENCE):
        asked = quantisation("known", E4M3, DEVICE, scale=2.0)
        operands = [way.swiglu(gate_up, asked, dtype=torch.float32)]
        operands += way.swiglu_backward(gate_up, gradient, asked, asked)
        found.append({f"{name} {i}": part for i, each in enumerate(operands) for name, part in parts(each).items()})
    assert_same(*found)


def test_rows_beyond_two_to_the_31():
    stride, width = 2**30 + 8, 10
    memory = torch.empty(2 * stride + 2 * width, dtype=torch.bfloat16, device=DEVICE)
    gate_up, gradient = _inputs(3, width, torch.bfloat16)
    asked = quantisation("known", E4M3, DEVICE)
    expected = [FUSED.swiglu(gate_up, asked, dtype=torch.bfloat16)]
    expected += FUSED.swiglu_backward(gate_up, gradient, asked, asked)
    far = memory.as_strided((3, 2 * width), (stride, 1))
    far.copy_(gate_up)
    found = [FUSED.swiglu(far, asked, dtype=torch.bfloat16), *FUSED.swiglu_backward(far, gradient, asked, asked)]
    # the gradient from far away: all that matters of the values is where they are
    found += FUSED.swiglu_backward(gate_up, far[:, :width], asked, asked)
    expected += FUSED.swiglu_backward(gate_up, gate_up[:, :width], asked, asked)
    for one, other in zip(found, expected, strict=True):
        assert_same(parts(one), parts(other))


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)])
def test_nothing_gives_nothing(shape):
    gate_up = torch.empty(shape, device=DEVICE)
    gradient = torch.empty(shape[0], shape[1] // 2, device=DEVICE)
    asked = quantisation("known", E4M3, DEVICE)
    operands = [FUSED.swiglu(gate_up, asked, dtype=torch.float32)]
    operands += FUSED.swiglu_backward(gate_up, gradient, asked, asked)
    assert [operand.rows.values.shape for operand in operands] == [gradient.shape, gate_up.shape, gradient.shape]
    assert (asked.amax.item(), asked.counts.tolist()) == (1, [3, 5])
