"""The linear layers and halves of a block in fp8: against a simulation and the reference, and what they keep."""

import math
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch

from litespark.mesh import Mesh
from litespark.ops.fp8.operands import MULTIPLE, Matrix, product
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import LINEARS, RECIPES, Fp8Config
from litespark.ops.linear.function import norm_linear, projection_mlp
from litespark.ops.linear.state import Fp8Linear, why_not
from litespark.ops.rms_norm.reference import rms_norm
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import relative_distance
from tests.ops.assertions import assert_close
from tests.ops.fp8_halves import (
    APART,
    DEVICE,
    EPSILON,
    GRADIENT,
    HALVES,
    PIECES,
    D,
    F,
    N,
    T,
    coarse,
    finish_step,
    linear_of,
    linears_of,
    mlp_half,
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
def test_a_wrong_scale_is_found(name, layout):
    half = "norm" if name == "qkv" else "mlp"
    linears = linears_of(Fp8Config(simulate=True))
    expected = HALVES[half](linears, linear=simulated_linear(Fp8Config()))
    linear = getattr(linears, name)
    operand = linear.weight_operand(torch.float32)
    matrix = getattr(operand, layout)
    linear.weight_operand = lambda dtype: replace(operand, **{layout: Matrix(matrix.values, 2 * matrix.scale)})
    with pytest.raises(AssertionError, match="relative distance above"):
        assert_close(HALVES[half](linears), expected, SIMULATION_BOUND)


# ---------------------------------------------------------------- against the reference


def _assert_near_reference(found, half, linears, gradients="e5m2"):
    expected = HALVES[half](linears, linear=lambda x, weight: x @ weight.T)
    assert found.keys() == expected.keys()
    for name in expected:
        bound = GRADIENT_BOUND[gradients] if name.startswith("gradient") else OUTPUT_BOUND[half]
        assert relative_distance(found[name].double(), expected[name]) <= bound, name


@pytest.mark.parametrize(("pieces", "gradients"), list(zip(PIECES, GRADIENT, strict=False)))
@pytest.mark.parametrize("half", HALVES)
def test_outputs_and_gradients_stay_near_the_reference_under_autocast(half, pieces, gradients):
    linears = linears_of(Fp8Config(gradients=gradients, simulate=True), pieces)
    for _ in range(2):
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = HALVES[half](linears, torch.bfloat16)
        _assert_near_reference(found, half, linears, gradients)
        stream, y = found["output 0"], found["output 1"]
        assert (stream.dtype, y.dtype) == (torch.float32, torch.bfloat16)
        for gradient in (x for name, x in found.items() if name.split()[-1] in LINEARS):
            assert gradient.dtype == torch.float32
            assert not torch.equal(gradient, gradient.bfloat16().float())  # nor was it rounded on its way
        finish_step(linears)


@pytest.mark.parametrize("without", [("qkv",), ("gate_up",), ("output", "down")])
def test_any_of_the_layers_may_stay_out_of_fp8(without):
    linears = linears_of(Fp8Config(simulate=True), without=without)
    for _ in range(2):
        for half in HALVES:
            _assert_near_reference(HALVES[half](linears), half, linears)
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
        ({"intermediate_size": 56}, "intermediate_size F is 56, and fp8 products take multiples of 16"),
        ({"head_dim": 6}, "the size of all heads H·Dh is 24, and"),
        ({"num_kv_heads": 3, "head_dim": 12}, "(H + 2K)·Dh is 120"),
        ({"sequences": 1, "length": 15}, "the tokens of a micro-batch is 15"),
        ({"hidden_size": 40, "intermediate_size": 56}, "D is 40 and intermediate_size F is 56"),
    ],
)
def test_sizes_that_fp8_units_cannot_take_are_named(changes, message):
    shapes = StepShapes(2, 16, 32, 4, 2, 8, 48, 61)
    assert why_not(shapes) is None
    assert message in why_not(replace(shapes, **changes))


# ---------------------------------------------------------------- what is kept, noted and cast


@pytest.mark.parametrize("pieces", [*PIECES, *([APART] if "triton" in PIECES else [])])
def test_recomputing_the_product_changes_nothing_and_keeps_less(pieces):
    linears = linears_of(Fp8Config(simulate=True), pieces)
    for _ in range(2):  # by the scale of the tensor, then by a known one
        kept, found = {}, {}
        for recompute in (False, True):
            sizes = []
            record = lambda x, sizes=sizes: sizes.append(x.nbytes) or x  # noqa: E731
            with torch.autograd.graph.saved_tensors_hooks(record, lambda x: x):
                found[recompute] = mlp_half(linears, recompute=recompute)
            kept[recompute] = sum(sizes)
        assert all(torch.equal(found[True][name], x) for name, x in found[False].items())
        # the codes of the product, one byte each, and their scale
        assert kept[False] - kept[True] == T * F + 4
        finish_step(linears)


def test_the_backward_pass_keeps_one_byte_for_each_value_that_is_multiplied():
    linears = linears_of(Fp8Config(simulate=True))
    expected = {
        # stream, norm weight and inverse RMS in fp32; codes of the norm and the weight, each with its scale
        "norm": 4 * (T * D + D + T) + (T * D + 4) + (N * D + 4),
        # gate and up in bf16 beside that; codes of attended, norm, product and of the three weights
        "mlp": 4 * (T * D + D + T) + 2 * T * 2 * F + (T * (N + D + F) + 3 * 4) + (D * N + 3 * F * D + 3 * 4),
    }
    for half, size in expected.items():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.nbytes) or x, lambda x: x):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                HALVES[half](linears, torch.bfloat16)
        assert sum(sizes) == size


@pytest.mark.parametrize("frozen", LINEARS)
def test_a_frozen_weight_gets_no_gradient_and_changes_no_other(frozen):
    linears = linears_of(Fp8Config(simulate=True))
    half = "norm" if frozen == "qkv" else "mlp"
    expected = HALVES[half](linears)
    getattr(linears, frozen).weight.requires_grad_(False)
    for run in (HALVES[half], partial(mlp_half, recompute=True))[: 1 if half == "norm" else 2]:
        found = run(linears)
        assert expected.keys() - found.keys() == {f"gradient of {frozen}"}
        assert all(torch.equal(x, expected[name]) for name, x in found.items())


def test_without_gradients_nothing_is_noted_and_only_rows_are_made(monkeypatch):
    linears = linears_of(Fp8Config(simulate=True))
    for linear in linears:
        linear.weight_operand(torch.float32)  # noted whoever asks for it: it is the weight's and not the pass's
    scaling, quantisations = linears.qkv.scaling, []
    noted, quantisation = scaling.amax.clone(), Fp8Linear.quantisation
    monkeypatch.setattr(
        Fp8Linear, "quantisation", lambda *a, **k: quantisations.append(quantisation(*a, **k)) or quantisations[-1]
    )
    norm = torch.ones(D, device=DEVICE)
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            stream, _ = norm_linear(random(T, D), None, norm, EPSILON, linears.qkv)
            projection_mlp(stream, random(T, N), norm, EPSILON, linears, recompute=False)
    assert torch.equal(scaling.amax, noted)
    assert not any(scaling.seen)
    assert len(quantisations) == 8
    assert not any(each.columns or each.amax is not None or each.counts is not None for each in quantisations)
    scaling.finish_step(Mesh())
    assert [name for name, known in zip(scaling.names, scaling.known, strict=True) if known] == [
        f"{name}.weight" for name in LINEARS
    ]


def test_weights_that_validation_cast_are_trained_with():
    linears, norm, x = linears_of(Fp8Config(simulate=True)), torch.ones(D, device=DEVICE), random(T, D).requires_grad_()
    with torch.inference_mode():
        _, expected = norm_linear(x, None, norm, EPSILON, linears.qkv)
    _, y = norm_linear(x, None, norm, EPSILON, linears.qkv)
    y.sum().backward()
    assert torch.equal(y, expected)
    assert x.grad is not None


def test_a_weight_is_cast_anew_when_it_was_written_to():
    linear = linear_of(Fp8Config(simulate=True))
    first = linear.weight_operand(torch.float32)
    assert linear.weight_operand(torch.float32) is first
    with torch.no_grad():
        linear.weight.copy_(2 * linear.weight)
    second = linear.weight_operand(torch.float32)
    assert float(second.rows.scale) == 2 * float(first.rows.scale)
    linear.weight.data = linear.weight.data.clone()
    assert linear.weight_operand(torch.float32) is not second


def test_a_weight_outside_fp8_has_the_dtype_of_activations():
    linear = linears_of(Fp8Config(simulate=True), without=("down",)).down
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        operand = linear.weight_operand(dtype)
        assert operand.rows.values.dtype == operand.columns.values.dtype == dtype
        assert linear.weight_operand(dtype) is operand


def test_a_layer_that_left_fp8_and_came_back_knows_nothing_of_before():
    linear, gradient = linear_of(Fp8Config(simulate=True)), random(T, N)
    products_of(linear, random(T, D), gradient)
    finish_step(linear)
    assert all(linear.scaling.known)
    linear.move(None)
    exact, *_ = products_of(linear, random(T, D), gradient)
    assert relative_distance(exact, random(T, D) @ linear.weight.T) < 1e-6
    linear.scaling.finish_step(Mesh())
    assert not any(linear.scaling.known)
    linear.move("delayed")
    # a hundred times as large: by the scales of before it would be cut off
    found, *_ = products_of(linear, 100 * random(T, D), gradient)
    assert relative_distance(found, 100 * random(T, D) @ linear.weight.T) < 0.05
    linear.scaling.finish_step(Mesh())
    place = linear.scaling.names.index("linear.input")
    largest = 100 * float(random(T, D).abs().max())
    assert float(linear.scaling.scale[place]) == 2.0 ** math.ceil(math.log2(largest / 448))


# ---------------------------------------------------------------- the rules of fp8 units


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
        calls.append(use_fast_accum)
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
    # forward products alone are added up with fewer bits
    layers = 1 if half == "norm" else 3
    assert calls == ([True] * layers + [False] * 2 * layers) * 2


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
