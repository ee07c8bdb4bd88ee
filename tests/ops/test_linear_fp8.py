"""The linear layers and halves of a block in fp8: against a simulation, exact, and against the reference."""

from dataclasses import replace

import pytest
import torch

from litespark.ops.fp8.operands import Matrix, Operand
from litespark.ops.fp8.settings import LINEARS, RECIPES, Fp8Config
from litespark.ops.linear.function import norm_linear
from litespark.ops.linear.state import Fp8Linear, why_not
from litespark.ops.rms_norm.reference import rms_norm
from litespark.ops.shapes import StepShapes
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
    linear_of,
    linears_of,
    products_of,
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
@pytest.mark.parametrize(("recipe", "gradients"), [("delayed", "e5m2"), ("tensorwise", "e4m3")])
def test_a_linear_layer_is_what_the_simulation_says_exactly(recipe, gradients, pieces):
    config = Fp8Config(recipe=recipe, gradients=gradients, simulate=True)
    linear, known = linear_of(config, coarse(N, D), pieces), {}
    # the second step is four times as large: `delayed` cuts it off at what the first one told
    for gain in (1.0, 4.0):
        x, gradient = gain * coarse(T, D, seed=1), gain * coarse(T, N, seed=2)
        leaves = [each.detach().double().requires_grad_() for each in (x, linear.weight)]
        expected = simulated_linear(config, known)(*leaves)
        expected.backward(gradient.double())
        wanted = [expected, *(leaf.grad for leaf in leaves)]
        assert all(map(torch.equal, (each.double() for each in products_of(linear, x, gradient)), wanted))
        if recipe == "delayed":
            tensors = {"input": x, "weight": linear.weight, "gradient": gradient}
            known = {name: float(each.detach().abs().max()) for name, each in tensors.items()}
        finish_step(linear)


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


# ---------------------------------------------------------------- against the reference


def reference(half, linears):
    return HALVES[half](linears, linear=lambda x, weight: x @ weight.T)


def _assert_within(found, expected, half, gradients="e5m2"):
    assert found.keys() == expected.keys()
    for name in expected:
        bound = GRADIENT_BOUND[gradients] if name.startswith("gradient") else OUTPUT_BOUND[half]
        assert relative_distance(found[name].double(), expected[name]) <= bound, name


@pytest.mark.parametrize(("pieces", "gradients"), list(zip(PIECES, GRADIENT, strict=False)))
@pytest.mark.parametrize("half", HALVES)
def test_outputs_and_gradients_stay_near_the_reference_under_autocast(half, pieces, gradients):
    linears = linears_of(Fp8Config(gradients=gradients, simulate=True), pieces)
    expected = reference(half, linears)
    for _ in range(2):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = HALVES[half](linears, torch.bfloat16)
        _assert_within(found, expected, half, gradients)
        stream, y = found["output 0"], found["output 1"]
        assert (stream.dtype, y.dtype) == (torch.float32, torch.bfloat16)
        for gradient in (x for name, x in found.items() if name.split()[-1] in LINEARS):
            assert gradient.dtype == torch.float32
            assert not torch.equal(gradient, gradient.bfloat16().float())  # nor was it rounded on its way
        finish_step(linears)


@pytest.mark.parametrize("without", [("qkv",), ("gate_up",), ("output", "down"), LINEARS])
def test_any_of_the_layers_may_stay_out_of_fp8(without):
    linears = linears_of(Fp8Config(simulate=True), without=without)
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
    x, norm = random(T, D).requires_grad_(), torch.ones(D, device=DEVICE)
    stream, y = norm_linear(x, None, norm, EPSILON, linears.qkv)
    (found,) = torch.autograd.grad(stream.sum() + y.sum(), x)
    normed = rms_norm(x, norm, EPSILON)
    (expected,) = torch.autograd.grad(x.sum() + (normed @ linears.qkv.weight.T).sum(), x)
    assert torch.equal(stream, x)
    assert relative_distance(found, expected) < GRADIENT_BOUND["e5m2"]


# ---------------------------------------------------------------- sizes and devices


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 56}, "the feed-forward width F is 56, and fp8 products take multiples of 16"),
        ({"head_dim": 6}, "the width of all heads H·Dh is 24, and"),
        ({"num_kv_heads": 3, "head_dim": 12}, "(H + 2K)·Dh is 120"),
        ({"rows": 1, "length": 15}, "the tokens of a micro-batch is 15"),
        ({"hidden_size": 40, "intermediate_size": 56}, "D is 40 and the feed-forward width F is 56"),
    ],
)
def test_sizes_that_fp8_units_cannot_take_are_named(changes, message):
    shapes = StepShapes(2, 16, 32, 4, 2, 8, 48, 61)
    assert why_not(shapes) is None
    assert message in why_not(replace(shapes, **changes))
