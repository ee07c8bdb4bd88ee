"""The fused pieces as a set: what can be fused is, and what cannot goes the ordinary way.

That every piece agrees with the reference, whatever is asked for, is what `test_verification.py` shows.
"""

import pytest
import torch

from litespark.ops.backend import load
from litespark.ops.fp8 import fused
from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.fused import PIECES as FUSED
from tests.ops.fp8_inputs import quantisation

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = ["plain", "known", "tensor"]
FUSED_FUNCTIONS = ["add_rms_norm_cast", "add_rms_norm_backward_cast", "swiglu_cast", "swiglu_backward_cast"]


def _random(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_fused_is_and_nothing_else(kind, monkeypatch):
    called = []

    def recording(name, function):
        return lambda *inputs: called.append(name) or function(*inputs)

    for name in FUSED_FUNCTIONS:
        monkeypatch.setattr(fused, name, recording(name, getattr(fused, name)))
    monkeypatch.setattr(fused.kernels, "cast", recording("cast", fused.kernels.cast))
    asked, gradients = (quantisation(kind, format, DEVICE, scale=2.0**-6) for format in (E4M3, E5M2))
    x, weight, dtype = _random(12, 40), _random(40), torch.bfloat16
    stream, _, inverse_rms = FUSED.add_rms_norm(x, x, weight, 1e-5, asked, stream_dtype=dtype, dtype=dtype)
    FUSED.add_rms_norm_backward(x, x, stream, weight, inverse_rms, gradients, dtype=dtype)
    FUSED.swiglu(x, asked, dtype=dtype)
    FUSED.swiglu_backward(x, _random(12, 20), gradients, asked)
    assert called == (FUSED_FUNCTIONS if kind == "known" else ["cast"] * 5)


@pytest.mark.parametrize("again", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_made_again_has_the_codes_that_it_had(kind, again):
    gate_up, gradient = _random(12, 80), _random(12, 40)
    asked = quantisation(again, E4M3, DEVICE, scale=2.0**-6)
    expected = FUSED.swiglu(gate_up, asked, dtype=torch.bfloat16).columns
    _, found = FUSED.swiglu_backward(gate_up, gradient, quantisation(kind, E5M2, DEVICE, scale=2.0**-6), asked)
    assert torch.equal(found.columns.values.float(), expected.values.float())


def test_they_are_the_triton_backend_of_fp8():
    assert load("fp8", "triton") is FUSED
