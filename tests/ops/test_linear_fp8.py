"""The linear layers and halves of a block in fp8: against a simulation, exact, and against the reference."""

import math

import pytest
import torch
from torch import nn

from litespark.ops.backend import load
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.operands import Matrix, Operand
from litespark.ops.fp8.settings import LINEARS, RECIPES, Fp8Config
from litespark.ops.linear.function import fp8_linear, norm_linear
from litespark.ops.linear.reference import norm_linear as norm_linear_reference
from litespark.ops.linear.reference import projection_mlp as projection_mlp_reference
from litespark.ops.linear.state import Fp8Linear, single_linear, why_not
from litespark.ops.rms_norm.reference import rms_norm
from litespark.ops.shapes import StepShapes
from litespark.ops.swiglu.reference import swiglu
from litespark.ops.tolerance import relative_distance
from tests.ops.assertions import assert_close
from tests.ops.fp8_halves import (
    DEVICE,
    EPSILON,
    GRADIENT,
    HALVES,
    PIECES,
    D,
    N,
    T,
    coarse,
    finish_step,
    linears_of,
    random,
    simulated_linear,
)

# A code that falls to the other side, since fp32 adds up in another order than fp64, moves a tensor by 2e-3 at most;
# a wrong scale by more than the loss of fp8 itself, which is from 3e-2.
SIMULATION_BOUND = 5e-3
# e4m3 rounds by 2.6 % in the mean square, e5m2 by twice that; products of two add the squares, a chain of them too
OUTPUT_BOUND, GRADIENT_BOUND = {"norm": 0.05, "mlp": 0.1}, {"e4m3": 0.11, "e5m2": 0.15}


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("gradients", GRADIENT)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_linear_layer_is_what_the_simulation_says_exactly(recipe, gradients, pieces):
    config = Fp8Config(recipe=recipe, gradients=gradients, simulate=True)
    linear = single_linear(nn.Parameter(coarse(N, D)), config, load("fp8", pieces))
    known = {}
    # the second step is four times as large: `delayed` cuts it off at what the first one told
    for gain in (1.0, 4.0):
        x, gradient = gain * coarse(T, D, seed=1), gain * coarse(T, N, seed=2)
        x.requires_grad_()
        linear.weight.grad = None
        y = fp8_linear(x, linear)
        y.backward(gradient)
        others = [each.detach().double().requires_grad_() for each in (x, linear.weight)]
        expected = simulated_linear(config, known)(*others)
        expected.backward(gradient.double())
        for found, wanted in ((y, expected), (x.grad, others[0].grad), (linear.weight.grad, others[1].grad)):
            assert torch.equal(found.double(), wanted)
        tensors = {"input": x, "weight": linear.weight, "gradient": gradient}
        known = (
            {name: float(each.detach().abs().max()) for name, each in tensors.items()} if recipe == "delayed" else {}
        )
        linear.scaling.finish_step()
        linear.renew_weight()


def test_under_autocast_nothing_but_the_output_is_rounded_to_bf16():
    config = Fp8Config(simulate=True)
    linear = single_linear(nn.Parameter(coarse(N, D)), config, load("fp8", "reference"))
    x, gradient = coarse(T, D, seed=1).bfloat16(), coarse(T, N, seed=2).bfloat16()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = fp8_linear(x, linear)
        y.backward(gradient)
    others = [each.detach().double().requires_grad_() for each in (x, linear.weight)]
    expected = simulated_linear(config)(*others)
    expected.backward(gradient.double())
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(linear.weight.grad.double(), others[1].grad)
    assert not torch.equal(linear.weight.grad, linear.weight.grad.bfloat16().float())


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_halves_of_a_block_are_what_the_simulation_says(recipe, half, pieces):
    config = Fp8Config(recipe=recipe, simulate=True)
    linears = linears_of(config, pieces)
    expected = HALVES[half](linears, linear=simulated_linear(config))
    # in the second step `delayed` knows the scales, which are the same, and producers cast on their way
    for _ in range(2):
        assert_close(HALVES[half](linears), expected, SIMULATION_BOUND)
        finish_step(linears)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("name", LINEARS)
def test_a_wrong_scale_is_found(name, layout, monkeypatch):
    half = "norm" if name == "qkv" else "mlp"
    config = Fp8Config(simulate=True)
    linears = linears_of(config)
    expected = HALVES[half](linears, linear=simulated_linear(config))
    right = Fp8Linear.weight_operand

    def wrong(linear, dtype):
        operand = right(linear, dtype)
        if linear.name != name:
            return operand
        matrix = getattr(operand, layout)
        return Operand(**(vars(operand) | {layout: Matrix(matrix.values, 2 * matrix.scale)}))

    monkeypatch.setattr(Fp8Linear, "weight_operand", wrong)
    with pytest.raises(AssertionError, match="relative distance above"):
        assert_close(HALVES[half](linears), expected, SIMULATION_BOUND)


def test_scales_of_rows_keep_rows_that_one_scale_loses():
    found = {}
    for recipe in RECIPES:
        linear = single_linear(
            nn.Parameter(random(N, D)), Fp8Config(recipe=recipe, simulate=True), load("fp8", "reference")
        )
        x = random(T, D)
        x[7] *= 1e-7
        found[recipe] = relative_distance(fp8_linear(x, linear)[7], x[7] @ linear.weight.T)
    assert found["rowwise"] < OUTPUT_BOUND["norm"]
    # all of it became zero
    assert found["tensorwise"] == found["delayed"] == 1


# ---------------------------------------------------------------- against the reference


def reference(half, linears):
    return HALVES[half](linears, linear=lambda x, weight: x @ weight.T)


def _assert_within(found, expected, half, gradients="e5m2"):
    assert found.keys() == expected.keys()
    for name in expected:
        bound = GRADIENT_BOUND[gradients] if name.startswith("gradient") else OUTPUT_BOUND[half]
        assert relative_distance(found[name].double(), expected[name]) <= bound, name


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("gradients", GRADIENT)
@pytest.mark.parametrize("recipe", RECIPES)
def test_outputs_and_gradients_stay_near_the_reference_under_autocast(recipe, gradients, half, pieces):
    linears = linears_of(Fp8Config(recipe=recipe, gradients=gradients, simulate=True), pieces)
    expected = reference(half, linears)
    for _ in range(2):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = HALVES[half](linears, torch.bfloat16)
        _assert_within(found, expected, half, gradients)
        stream, y = found["output 0"], found["output 1"]
        assert (stream.dtype, y.dtype) == (torch.float32, torch.bfloat16)
        of_weights = [x for name, x in found.items() if name.split()[-1] in LINEARS]
        assert all(gradient.dtype == torch.float32 for gradient in of_weights)
        finish_step(linears)


def test_the_reference_is_what_the_halves_are_compared_with():
    linears = linears_of(Fp8Config(simulate=True))
    weights = [each.weight for each in linears]
    x, update = random(3, D), random(3, D, seed=1)
    stream, y = norm_linear_reference(x, update, weights[0][0, :D], EPSILON, weights[0])
    assert torch.equal(stream, x + update)
    assert torch.equal(y, rms_norm(x + update, weights[0][0, :D], EPSILON) @ weights[0].T)
    alone = norm_linear_reference(x, None, weights[0][0, :D], EPSILON, weights[0])
    assert torch.equal(alone[1], rms_norm(x, weights[0][0, :D], EPSILON) @ weights[0].T)
    stream, y = projection_mlp_reference(x, random(3, N), weights[0][0, :D], EPSILON, *weights[1:])
    assert torch.equal(stream, x + random(3, N) @ weights[1].T)
    assert torch.equal(y, swiglu(rms_norm(stream, weights[0][0, :D], EPSILON) @ weights[2].T) @ weights[3].T)


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("without", [("qkv",), ("output",), ("gate_up",), ("down",), ("output", "down"), LINEARS])
def test_any_of_the_layers_may_stay_out_of_fp8(without, pieces):
    linears = linears_of(Fp8Config(simulate=True), pieces, without)
    for _ in range(2):
        for half in HALVES:
            found, expected = HALVES[half](linears), reference(half, linears)
            if without == LINEARS:
                assert_close({name: x.double() for name, x in found.items()}, expected, 1e-5)
            else:
                _assert_within(found, expected, half)
        if without != LINEARS:
            finish_step(linears)


def test_the_first_norm_has_no_update():
    linears = linears_of(Fp8Config(simulate=True))
    x, norm = random(T, D), torch.ones(D, device=DEVICE)

    def gradient_of(op, *weights):
        leaf = x.clone().requires_grad_()
        stream, y = op(leaf, None, norm, EPSILON, *weights)
        assert torch.equal(stream, x)
        (stream.sum() + y.sum()).backward()
        return leaf.grad

    expected = gradient_of(norm_linear_reference, linears.qkv.weight)
    assert relative_distance(gradient_of(norm_linear, linears.qkv), expected) < GRADIENT_BOUND["e5m2"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_reaches_outputs_and_gradients(value):
    linear = single_linear(nn.Parameter(random(N, D)), Fp8Config(simulate=True), load("fp8", "reference"))
    for _ in range(2):  # by the scale of the tensor, then by a known one
        x = random(T, D)
        x[3, 5] = value
        y = fp8_linear(x, linear)
        y.sum().backward()
        assert bool(y[3].isnan().all())
        assert not bool(linear.weight.grad.isfinite().all())
        linear.weight.grad = None
        fp8_linear(random(T, D), linear).sum().backward()
        linear.scaling.finish_step()
        linear.renew_weight()
        assert bool(linear.scaling.scale.isfinite().all())


# ---------------------------------------------------------------- sizes and devices


def _shapes(**changes):
    sizes = {"rows": 2, "length": 16, "width": 32, "heads": 4, "kv_heads": 2, "head_width": 8, "feed_forward": 48}
    return StepShapes(**(sizes | {"vocabulary": 61} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 40}, "the model's width D is 40, and fp8 products take multiples of 16"),
        ({"feed_forward": 56}, "the feed-forward width F is 56"),
        ({"head_width": 6}, r"the width of all heads H·Dh is 24, and"),
        ({"kv_heads": 3, "head_width": 12}, r"\(H \+ 2K\)·Dh is 120"),
        ({"rows": 1, "length": 15}, "the tokens of a micro-batch is 15"),
        ({"width": 40, "feed_forward": 56}, "D is 40 and the feed-forward width F is 56"),
    ],
)
def test_sizes_that_fp8_units_cannot_take_are_named(changes, message):
    assert why_not(_shapes()) is None
    with pytest.raises(ValueError, match=message):
        raise ValueError(why_not(_shapes(**changes)))


def _scaled_products_run(recipe):
    """PyTorch multiplies codes on a CPU as well, though without units for it; older ones only with one scale."""
    if DEVICE.type == "cuda":
        return without_units(DEVICE) is None
    scales = (torch.ones(16, 1), torch.ones(1, 16)) if recipe == "rowwise" else (torch.ones(()), torch.ones(()))
    codes = torch.ones(16, 16).to(torch.float8_e4m3fn)
    try:
        torch._scaled_mm(codes, codes.T, *scales, out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("gradients", GRADIENT)
@pytest.mark.parametrize("recipe", RECIPES)
def test_products_of_codes_are_what_is_simulated(recipe, gradients, half):
    if not _scaled_products_run(recipe):
        pytest.skip(f"no products of codes here: {without_units(DEVICE)}")
    results = []
    for simulate in (True, False):
        linears = linears_of(Fp8Config(recipe=recipe, gradients=gradients, simulate=simulate))
        with torch.autocast(DEVICE.type, torch.bfloat16):
            results.append(HALVES[half](linears, torch.bfloat16))
    # fp8 units add up forward products with 14 bits, and results are rounded to bf16 before they are cast again
    assert_close(*results[::-1], 2e-2)
