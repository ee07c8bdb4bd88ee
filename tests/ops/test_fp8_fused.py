"""The fused pieces as a set: what can be fused is, what cannot goes the ordinary way, and both agree with the
reference. The casts, norms and SwiGLU have tests of their own."""

import pytest
import torch

from litespark.ops.backend import load
from litespark.ops.fp8 import fused
from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.fused import PIECES as FUSED
from litespark.ops.fp8.reference import PIECES as REFERENCE
from litespark.ops.tolerance import FP32_BOUND
from tests.ops.assertions import assert_close
from tests.ops.fp8_inputs import codes_apart, emission, parts

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["plain", "known", "tensor", "rowwise"]
# ways to the same result, by method of the pieces
FUSED_FUNCTIONS = ["add_rms_norm_cast", "add_rms_norm_backward_cast", "swiglu_cast", "swiglu_backward_cast"]
EPSILON = 1e-5


def _random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def _assert_near(actual, expected):
    """Codes at most one apart and nearly all equal, anything else equal within fp32 or one rounding to bf16."""
    for name, one in parts(actual).items():
        other = parts(expected)[name]
        if one is None or other is None:
            assert one is other
        elif one.dtype == torch.uint8:
            apart = codes_apart(one, other)
            assert apart.max() <= 1
            assert (apart > 0).float().mean() <= 0.01
        else:
            _assert_close(name, one, other)


def _assert_close(name, one, other):
    assert (one.dtype, one.shape) == (other.dtype, other.shape), name
    assert_close({name: one}, {name: other}, FP32_BOUND if one.dtype == torch.float32 else 1e-3)


def _calls(pieces, kind, stream_dtype, dtype, update, passed):
    """Each method once, with an emission of a kind."""
    rows, width = 12, 40
    x, weight = _random(rows, width, dtype=stream_dtype), _random(width, seed=1)
    added = _random(rows, width, seed=2, dtype=dtype) if update else None
    asked, gradients = emission(kind, E4M3, DEVICE, scale=2.0**-6), emission(kind, E5M2, DEVICE, scale=2.0**-6)
    stream, normed, inverse_rms = pieces.add_rms_norm(
        x, added, weight, EPSILON, asked, stream_dtype=stream_dtype, dtype=dtype
    )
    assert (stream is x) == (not update)
    gradient, of_update, of_weight = pieces.add_rms_norm_backward(
        _random(rows, width, seed=3, dtype=dtype),
        _random(rows, width, seed=4, dtype=stream_dtype) if passed else None,
        stream,
        weight,
        inverse_rms,
        gradients,
        dtype=dtype,
    )
    gate_up = _random(rows, 2 * width, seed=5, dtype=dtype)
    product = pieces.swiglu(gate_up, asked, dtype=dtype)
    of_gates, again = pieces.swiglu_backward(gate_up, _random(rows, width, seed=6, dtype=dtype), gradients, asked)
    tensors = {"stream": stream, "inverse_rms": inverse_rms, "gradient": gradient, "of_weight": of_weight}
    return tensors, {"normed": normed, "of_update": of_update, "product": product, "of_gates": of_gates, "again": again}


@pytest.mark.parametrize("update, passed", [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize(
    "stream_dtype, dtype",
    [(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)],
    ids=["fp32", "autocast", "bf16"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_piece_agrees_with_the_reference(kind, stream_dtype, dtype, update, passed):
    tensors, operands = _calls(FUSED, kind, stream_dtype, dtype, update, passed)
    expected_tensors, expected_operands = _calls(REFERENCE, kind, stream_dtype, dtype, update, passed)
    for name, tensor in tensors.items():
        _assert_close(name, tensor, expected_tensors[name])
    for name, operand in operands.items():
        _assert_near(operand, expected_operands[name])


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_fused_is_and_nothing_else(kind, monkeypatch):
    called = []

    def recording(name, function):
        return lambda *inputs: called.append(name) or function(*inputs)

    for name in FUSED_FUNCTIONS:
        monkeypatch.setattr(fused, name, recording(name, getattr(fused, name)))
    cast = fused.function.cast
    monkeypatch.setattr(fused.function, "cast", lambda *inputs: called.append("cast") or cast(*inputs))
    _calls(FUSED, kind, torch.float32, torch.bfloat16, True, True)
    assert called == (FUSED_FUNCTIONS if kind == "known" else ["cast"] * 5)


@pytest.mark.parametrize("again", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_made_again_has_the_codes_that_it_had(kind, again):
    gate_up, gradient = (_random(12, width, seed=5, dtype=torch.bfloat16) for width in (80, 40))
    asked = emission(again, E4M3, DEVICE, scale=2.0**-6)
    expected = FUSED.swiglu(gate_up, asked, dtype=torch.bfloat16).columns
    _, found = FUSED.swiglu_backward(gate_up, gradient, emission(kind, E5M2, DEVICE, scale=2.0**-6), asked)
    assert torch.equal(found.columns.values.float(), expected.values.float())


def test_they_are_the_triton_backend_of_fp8():
    assert load("fp8", "triton") is FUSED
