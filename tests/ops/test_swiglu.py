"""SwiGLU in Triton against the reference, alone and together with the projection behind it."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from litespark.ops.backend import load
from litespark.ops.swiglu.function import swiglu, swiglu_linear
from litespark.ops.swiglu.reference import swiglu as swiglu_reference
from litespark.ops.swiglu.reference import swiglu_linear as swiglu_linear_reference
from litespark.ops.tolerance import outputs_and_gradients
from tests.ops.assertions import assert_op_matches
from tests.properties import Phase, given, settings, st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ACTIVATIONS = ["silu", "gelu_tanh"]


def _inputs(*shape, width=None, seed=0):
    """gate_up of (..., 2F) and, if a `width` D is given, a weight (D, F)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"gate_up": shape} | ({} if width is None else {"weight": (width, shape[-1] // 2)})
    return {name: torch.randn(each, generator=generator).to(DEVICE) for name, each in shapes.items()}


@pytest.mark.parametrize("dtype", DTYPES)
# a failure is not made smaller: that takes minutes in the interpreter
@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    rows=st.integers(1, 40), intermediate_size=st.integers(1, 70), width=st.integers(8, 16),
    activation=st.sampled_from(ACTIVATIONS),
)  # fmt: skip
def test_outputs_and_gradients_equal_the_reference(dtype, rows, intermediate_size, width, activation):
    fast, slow = (partial(op, activation=activation) for op in (swiglu, swiglu_reference))
    assert_op_matches(fast, slow, _inputs(rows, 2 * intermediate_size), dtype)
    inputs = _inputs(rows, 2 * intermediate_size, width=width)
    fast, slow = (partial(op, activation=activation) for op in (swiglu_linear, swiglu_linear_reference))
    assert_op_matches(fast, slow, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(90, 70), (2, 3, 800), (3000,), (5, 60), (20,)])
def test_the_backend_for_cpus_equals_the_reference(dtype, activation, shape):
    fast, slow = (partial(op, activation=activation) for op in (load("swiglu", "cpu"), swiglu_reference))
    assert_op_matches(fast, slow, _inputs(*shape), dtype)


@pytest.mark.parametrize("shape", [(2, 3, 4, 10), (10,), (2, 2 * 5461), (300, 34)])
def test_any_leading_dimensions_and_several_programs(shape):
    assert_op_matches(swiglu, swiglu_reference, _inputs(*shape), torch.float32)
    assert_op_matches(swiglu_linear, swiglu_linear_reference, _inputs(*shape, width=3), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["triton", "cpu"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_far_from_zero(activation, backend, dtype):
    gates = torch.tensor([-1e4, -60.0, -20.0, -1.0, 0.0, 1.0, 20.0, 60.0, 1e4])
    inputs = {"gate_up": torch.cat((gates, torch.full_like(gates, 0.5))).to(DEVICE).unsqueeze(0)}
    fast, slow = (partial(op, activation=activation) for op in (load("swiglu", backend), swiglu_reference))
    assert_op_matches(fast, slow, inputs, dtype)
    actual = outputs_and_gradients(fast, {"gate_up": inputs["gate_up"].to(dtype)})
    assert all(bool(x.isfinite().all()) for x in actual.values())
    # where the sigmoid is one exactly, nothing may be lost
    product = actual["output 0"][0]
    assert product[-1] == gates[-1].to(dtype) / 2
    # the exponential of the backend for CPUs stays at e^88
    assert abs(product[0]) <= (1e-30 if backend == "cpu" else 0)


def test_rows_beyond_two_to_the_31():
    stride, intermediate_size = 2**30 + 8, 10
    memory = torch.empty(2 * stride + 2 * intermediate_size, dtype=torch.bfloat16, device=DEVICE)
    rows = memory.as_strided((3, 2 * intermediate_size), (stride, 1))
    small = _inputs(3, 2 * intermediate_size)["gate_up"].bfloat16()
    rows.copy_(small)
    found = []
    for gate_up in (small, rows):
        leaf = gate_up.detach().requires_grad_()
        product = swiglu(leaf)
        found.append([product, *torch.autograd.grad(product, leaf, gate_up[:, :intermediate_size])])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def _kept(op, *inputs):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        op(*inputs)
    return kept


@pytest.mark.parametrize("autocast", [False, True])
def test_the_product_is_not_kept_for_the_backward_pass(autocast):
    gate_up, weight = (each.requires_grad_() for each in _inputs(6, 20, width=5).values())
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast):
        kept = _kept(swiglu_linear, gate_up, weight)
    assert {tensor.data_ptr() for tensor in kept} == {gate_up.data_ptr(), weight.data_ptr()}
    # the way without it keeps more: this is what the op saves
    usual = _kept(lambda *inputs: torch.nn.functional.linear(swiglu(inputs[0]), inputs[1]), gate_up, weight)
    assert sum(x.numel() for x in usual) - sum(x.numel() for x in kept) == 6 * 10


def test_the_flop_counter_sees_all_three_matrix_products():
    counted = []
    for op in (swiglu_linear, lambda x, weight: torch.nn.functional.linear(swiglu_reference(x), weight)):
        gate_up, weight = (each.requires_grad_() for each in _inputs(2, 3, 20, width=5).values())
        with FlopCounterMode(display=False) as counter:
            op(gate_up, weight).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] == 3 * 2 * 6 * 10 * 5


@pytest.mark.parametrize("op", [lambda gate_up, weight: swiglu(gate_up), swiglu_linear])
def test_one_compilation_is_for_any_number_of_rows(op):
    torch.compiler.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    gate_up, weight = (each.requires_grad_() for each in _inputs(2, 5, 12, width=3).values())
    for dimension in (0, 1):
        torch._dynamo.mark_dynamic(gate_up, dimension)  # the compiler refuses what would fix a size
    compiled(gate_up, weight).sum().backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        gate_up, weight = (each.requires_grad_() for each in _inputs(3, 7, 12, width=3).values())
        compiled(gate_up, weight).sum().backward()


@pytest.mark.parametrize(
    ("shapes", "dtypes", "message"),
    [
        (((3, 8), (5, 4)), ("float64", "float64"), r"got torch.float64.* choose ops.swiglu_linear=reference"),
        (((3, 7), (5, 4)), ("float32", "float32"), r"gate_up \(3, 7\); expected \(\.\.\., 2F\)"),
        (((3, 8), (4, 5)), ("float32", "float32"), r"gate_up \(3, 8\) and weight \(4, 5\); expected .* \(D, F\)"),
        (((3, 8), (5, 4)), ("bfloat16", "float32"), r"weight torch.float32, expected one dtype; .* autocast"),
    ],
)
def test_what_the_kernels_do_not_take_is_refused(shapes, dtypes, message):
    inputs = [
        torch.zeros(shape, dtype=getattr(torch, dtype), device=DEVICE)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    with pytest.raises(ValueError, match=message):
        swiglu_linear(*inputs)


@pytest.mark.parametrize("backend", ["triton", "cpu", "reference"])
def test_an_activation_that_is_not_known_is_refused(backend):
    with pytest.raises(ValueError, match=r"got activation 'gelu', expected one of silu, gelu_tanh"):
        load("swiglu", backend)(torch.zeros(2, 4, device=DEVICE), "gelu")
