"""What the products of linear layers ask of fp8 units: the rules of `torch._scaled_mm`, of which a CPU checks few."""

import weakref

import pytest
import torch

from litespark.ops.fp8.operands import MULTIPLE, Matrix, product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear import state
from tests.ops.assertions import assert_close
from tests.ops.fp8_halves import HALVES, PIECES, D, F, N, T, finish_step, linear_of, linears_of, mlp_half, random


def _strict_product(calls):
    """`torch._scaled_mm` for units of any generation, by its source: aten/src/ATen/native/cuda/ScaledBlas.cpp."""

    def scaled_mm(left, right, left_scale, right_scale, *, out_dtype, use_fast_accum):
        k, n = left.shape[1], right.shape[1]
        assert left.stride() == (k, 1), "the left matrix is contiguous"
        assert right.stride() == (1, k), "the right one is so when it is turned"
        assert k % MULTIPLE == n % MULTIPLE == 0
        assert right.dtype == torch.float8_e4m3fn, "e5m2 stands on the left only"
        for each in (left, right, left_scale, right_scale):
            assert each.data_ptr() % 16 == 0, "units read from multiples of 16 bytes"
        assert left_scale.dtype == right_scale.dtype == torch.float32
        assert left_scale.shape == right_scale.shape == ()
        assert out_dtype in (torch.bfloat16, torch.float32)
        calls.append(out_dtype)
        return ((left.float() * left_scale) @ (right.float() * right_scale)).to(out_dtype)

    return scaled_mm


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("half", HALVES)
def test_products_keep_the_rules_of_the_units(half, pieces, monkeypatch):
    expected = HALVES[half](linears_of(Fp8Config(simulate=True)))
    linears = linears_of(Fp8Config(), pieces)
    calls = []
    monkeypatch.setattr(torch, "_scaled_mm", _strict_product(calls))
    # in the second step `delayed` hands over scales that it knows
    for _ in range(2):
        assert_close(HALVES[half](linears), expected, 1e-2)
        finish_step(linears)
    assert len(calls) == 2 * (3 if half == "norm" else 9)


def test_forward_products_alone_are_added_up_with_fewer_bits(monkeypatch):
    asked = []

    def recording(*matrices, simulate, fast):
        asked.append(fast)
        return product(*matrices, simulate=simulate, fast=fast)

    monkeypatch.setattr(state, "product", recording)
    linears = linears_of(Fp8Config(simulate=True))
    for run in (lambda: HALVES["norm"](linears), lambda: HALVES["mlp"](linears)):
        asked.clear()
        run()
        forward = len(asked) // 3
        assert asked == [True] * forward + [False] * (2 * forward)


@pytest.mark.parametrize("fast", [True, False])
def test_units_are_told_with_how_many_bits_to_add_up(fast, monkeypatch):
    operand = linear_of(Fp8Config()).weight_operand(torch.float32)
    told = []

    def scaled_mm(left, right, *scales, out_dtype, use_fast_accum):
        told.append(use_fast_accum)
        return torch.zeros(left.shape[0], right.shape[1], dtype=out_dtype, device=left.device)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    product(operand.rows, operand.rows, torch.float32, simulate=False, fast=fast)
    assert told == [fast]


def test_a_matrix_in_fp8_is_widened_to_one_that_is_not():
    """As when a layer moves between the two passes of a step."""
    codes = linear_of(Fp8Config()).weight_operand(torch.float32)
    x = random(T, D)
    for wanted, matrices in (
        (x @ codes.rows.wide().T, (Matrix(x), codes.rows)),
        (codes.rows.wide() @ x.T, (codes.rows, Matrix(x))),
    ):
        assert torch.equal(product(*matrices, torch.float32, simulate=False, fast=False), wanted)


@pytest.mark.parametrize("recompute", [False, True])
def test_shares_are_of_as_many_values_as_the_tensors_have(recompute):
    linears = linears_of(Fp8Config(simulate=True))
    HALVES["norm"](linears)
    mlp_half(linears, recompute=recompute)
    scaling = linears.qkv.scaling
    expected = {"qkv.input": T * D, "qkv.gradient": T * N, "output.input": T * N, "output.gradient": T * D}
    expected |= {"gate_up.input": T * D, "gate_up.gradient": T * 2 * F, "down.input": T * F, "down.gradient": T * D}
    # weights are counted where an optimizer step casts them
    assert {name: seen for name, seen in zip(scaling.names, scaling.seen, strict=True) if seen} == expected


@pytest.mark.parametrize("recompute", [False, True])
def test_the_largest_tensors_of_the_backward_pass_are_let_go_before_its_end(recompute):
    held, alive = [], []

    class Watched(Pieces):
        def swiglu_backward(self, gate_up, product_gradient, quantisation, again):
            gradient, product = super().swiglu_backward(gate_up, product_gradient, quantisation, again)
            made = [gradient.rows, gradient.columns] + ([product.columns] if product else [])
            held.extend(weakref.ref(x) for x in [product_gradient, *(matrix.values for matrix in made)])
            return gradient, product

        def add_rms_norm_backward(self, *inputs, **settings):
            alive.extend(each() is not None for each in held)
            return super().add_rms_norm_backward(*inputs, **settings)

    linears = linears_of(Fp8Config(simulate=True))
    for each in linears:
        each.pieces = Watched()
    mlp_half(linears, recompute=recompute)
    assert alive == [False] * (4 if recompute else 3)
