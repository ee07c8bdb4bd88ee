"""RMSNorm in Triton and in PyTorch's own kernel against the reference, alone and with the residual addition."""

import pytest
import torch

from litespark.ops.backend import load
from litespark.ops.rms_norm import kernels
from litespark.ops.rms_norm.function import add_rms_norm, rms_norm, rms_norm_and_stream
from litespark.ops.rms_norm.reference import add_rms_norm as add_rms_norm_reference
from litespark.ops.rms_norm.reference import rms_norm as rms_norm_reference
from tests.ops.assertions import assert_close, assert_op_matches
from tests.properties import Phase, given, settings, st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# in rows of one value the gradient of x is a difference of equals, unless epsilon is large
EPSILON = 0.5


def _inputs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": shape, "update": shape, "weight": shape[-1:]}
    return {name: torch.randn(each, generator=generator).to(DEVICE) for name, each in shapes.items()}


def _alone(op):
    # the same inputs for both ops: without an addition the update has no gradient
    return lambda x, update, weight: op(x, weight, EPSILON)


def _added(op):
    return lambda x, update, weight: op(x, update, weight, EPSILON)


def _of_update(op, used="both"):
    """With a norm of the update, and behind the sum another one or none; `used` are the outputs of the former."""

    def run(x, update, weight, update_weight):
        stream, y = op(x, update, weight, EPSILON, (update_weight, 2 * EPSILON))
        of_norm = {"both": (stream, y), "stream": (stream,), "norm": (y,)}[used]
        return *of_norm, *op(x, update, None, 0.0, (update_weight, EPSILON))

    return run


def _with_another_weight(inputs):
    return inputs | {"update_weight": inputs["weight"].flip(0) - 0.5}


def _assert_backend_matches(backend, inputs, dtype):
    assert_op_matches(_alone(load("rms_norm", backend)), _alone(rms_norm_reference), inputs, dtype)
    assert_op_matches(_added(load("add_rms_norm", backend)), _added(add_rms_norm_reference), inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["triton", "torch", "cpu"])
# a failure is not made smaller: that takes minutes in the interpreter
@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(rows=st.integers(1, 40), width=st.integers(1, 70))
def test_outputs_and_gradients_equal_the_reference(backend, dtype, rows, width):
    _assert_backend_matches(backend, _inputs(rows, width), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used", ["both", "stream", "norm"])
def test_the_stream_beside_its_norm_has_the_gradients_of_both(used, dtype):
    def of(both):
        def run(x, update, weight):
            stream, y = both(x, weight, EPSILON)
            return {"both": (stream + update, y), "stream": stream + update, "norm": y}[used]

        return run

    reference = of(lambda x, *rest: (x, rms_norm_reference(x, *rest)))
    assert_op_matches(of(rms_norm_and_stream), reference, _inputs(2, 3, 40), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used", ["both", "stream", "norm"])
def test_a_norm_of_the_update_stands_before_the_addition(used, dtype):
    for shape in ((5, 3, 40), (17,)):
        inputs = _with_another_weight(_inputs(*shape))
        for backend in ("triton", "torch", "cpu"):
            op = load("add_rms_norm", backend)
            assert_op_matches(_of_update(op, used), _of_update(add_rms_norm_reference, used), inputs, dtype)


def test_rows_of_an_update_that_do_not_fit_twice_are_normed_by_themselves(monkeypatch):
    monkeypatch.setattr("litespark.ops.rms_norm.function.WIDEST_OF_UPDATE", 23)
    monkeypatch.setattr("litespark.ops.rms_norm.function.add_rms_norm_of_update", lambda *_: pytest.fail("together"))
    inputs = _with_another_weight(_inputs(3, 24))
    assert_op_matches(_of_update(add_rms_norm), _of_update(add_rms_norm_reference), inputs, torch.float32)


def test_under_autocast_a_norm_of_the_update_gives_the_sum_as_products_read_it_too():
    x, update, weight = (each.requires_grad_() for each in _inputs(4, 24).values())
    narrow, kept = update.detach().bfloat16().requires_grad_(), []
    with torch.autocast(DEVICE.type, torch.bfloat16):
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
            stream, y = add_rms_norm(x, narrow, None, 0.0, (weight, EPSILON))
    assert (stream.dtype, y.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(y, stream.bfloat16())
    assert_close({"stream": stream}, {"stream": x + rms_norm_reference(narrow.float(), weight, EPSILON)})
    assert sorted(saved.numel() for saved in kept) == [4, 24, 96]  # and not the sum
    # where nothing read y, the gradient of x is the one that came
    incoming = torch.randn_like(stream)
    of_x, of_update = torch.autograd.grad(stream, (x, narrow), incoming, retain_graph=True)
    assert of_x.data_ptr() == incoming.data_ptr()
    twice = torch.autograd.grad((stream, y), (x, narrow), (incoming / 2, (incoming / 2).bfloat16()))
    assert [each.dtype for each in twice] == [torch.float32, torch.bfloat16]
    assert_close(dict(enumerate(twice)), {0: of_x, 1: of_update}, 2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [768, 3072, 16384])
def test_widths_of_real_models(width, dtype):
    _assert_backend_matches("triton", _inputs(2, width), dtype)


@pytest.mark.parametrize("shape", [(2, 3, 5, 17), (17,)])
@pytest.mark.parametrize("backend", ["triton", "torch", "cpu"])
def test_any_leading_dimensions(backend, shape):
    _assert_backend_matches(backend, _inputs(*shape), torch.float32)


def test_a_program_of_the_backward_pass_walks_many_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "BACKWARD_THREADS", 256)
    inputs = _inputs(700, 16)
    assert kernels.backward_programs(700, kernels.tiling(16, kernels.target_of(DEVICE)), kernels.target_of(DEVICE)) == 2
    _assert_backend_matches("triton", inputs, torch.float32)
    inputs = _with_another_weight(inputs)
    assert_op_matches(_of_update(add_rms_norm), _of_update(add_rms_norm_reference), inputs, torch.float32)


@pytest.mark.parametrize("backend", ["triton", "torch", "cpu"])
@pytest.mark.parametrize("wide", [("x",), ("update",), ("weight",), ("x", "weight")], ids=" and ".join)
def test_inputs_of_two_dtypes(wide, backend):
    dtype = torch.bfloat16

    def mixed(op):
        def run(*tensors):
            named = dict(zip(("x", "update", "weight"), tensors, strict=True))
            return op(**{name: x.float() if name in wide else x for name, x in named.items()}, eps=EPSILON)

        return run

    inputs = _inputs(6, 40)
    assert_op_matches(mixed(load("add_rms_norm", backend)), mixed(add_rms_norm_reference), inputs, dtype)

    given = {name: x.to(torch.float32 if name in wide else dtype).requires_grad_() for name, x in inputs.items()}
    stream, y = load("add_rms_norm", backend)(**given, eps=EPSILON)
    assert stream.dtype == y.dtype == (given["x"] + given["update"]).dtype
    (stream.float() + y.float()).sum().backward()
    assert all(x.grad.dtype == x.dtype for x in given.values())


@pytest.mark.parametrize("backend", ["triton", "torch", "cpu"])
def test_under_autocast_the_norm_is_in_low_precision_and_the_stream_is_not(backend):
    x, update, weight = (each.requires_grad_() for each in _inputs(4, 24).values())
    narrow = update.detach().bfloat16().requires_grad_()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        alone = load("rms_norm", backend)(x, weight, EPSILON)
        stream, y = load("add_rms_norm", backend)(x, narrow, weight, EPSILON)
    assert (alone.dtype, stream.dtype, y.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    expected = add_rms_norm_reference(x, narrow, weight, EPSILON)
    assert torch.equal(stream, expected[0])
    assert_close({"y": y}, {"y": expected[1]}, 2**-8)
    y.sum().backward()
    assert (x.grad.dtype, narrow.grad.dtype, weight.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)


def test_bf16_and_fp16_meet_in_fp32():
    x, update, weight = _inputs(3, 9).values()
    found, expected = (
        op(x.bfloat16(), update.half(), weight, EPSILON) for op in (add_rms_norm, add_rms_norm_reference)
    )
    assert found[0].dtype == found[1].dtype == torch.float32
    assert_close(dict(enumerate(found)), dict(enumerate(expected)))


def test_the_norm_is_that_of_the_rounded_stream():
    x = torch.tensor([[256.0, 1.0]], dtype=torch.bfloat16, device=DEVICE)
    update = torch.tensor([[0.9, 1.0]], dtype=torch.bfloat16, device=DEVICE)
    weight = torch.ones(2, device=DEVICE)
    stream, y = add_rms_norm(x, update, weight, EPSILON)
    assert stream.tolist() == [[256.0, 2.0]]
    torch.testing.assert_close(y, rms_norm_reference(stream, weight, EPSILON), rtol=0, atol=0)


def test_gradients_of_the_two_addends_are_added_up_apart():
    gradients = []
    for op in (add_rms_norm, add_rms_norm_reference):
        x, update, weight = (each.requires_grad_() for each in _inputs(5, 12).values())
        for used in (slice(2), slice(1), slice(1, 2)):  # an output that is not used has no part in them
            sum(y.square().sum() for y in op(x, update, weight, EPSILON)[used]).backward()
        assert x.grad.data_ptr() != update.grad.data_ptr()
        gradients.append({"x": x.grad, "update": update.grad, "weight": weight.grad})
    assert_close(*gradients)


def test_rows_beyond_two_to_the_31():
    stride, width = 2**30 + 8, 20
    memory = torch.empty(2 * stride + width, dtype=torch.bfloat16, device=DEVICE)
    rows = memory.as_strided((3, width), (stride, 1))
    small = _inputs(3, width)["x"].bfloat16()
    rows.copy_(small)
    weight = torch.ones(width, device=DEVICE)
    found = []
    for update in (small.clone().requires_grad_(), rows.detach().requires_grad_()):
        x = small.clone().requires_grad_()
        results = *add_rms_norm(x, update, weight, EPSILON), rms_norm(update, weight, EPSILON)
        found.append([*results, *torch.autograd.grad(results, (x, update), [update.detach()] * 3)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_kept_for_the_backward_pass():
    x, update, weight = (each.requires_grad_() for each in _inputs(6, 10).values())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        stream, _ = add_rms_norm(x, update, weight, EPSILON)
    # the stream, which the next addition keeps too, the weight, and one number a row
    assert sorted(tensor.numel() for tensor in kept) == [6, 10, 60]
    assert stream.data_ptr() in {tensor.data_ptr() for tensor in kept}


@pytest.mark.parametrize(
    ("shapes", "dtype", "message"),
    [
        (((3, 8), (3, 8), (8,)), torch.float64, r"add_rms_norm: got torch.float64.* choose ops.add_rms_norm=reference"),
        (((3, 8), (3, 7), (8,)), torch.float32, r"update \(3, 7\).* expected \(\.\.\., D\), the same, and \(D,\)"),
        (((3, 8), (3, 8), (9,)), torch.float32, r"weight \(9,\)"),
        (((), (), ()), torch.float32, r"x \(\)"),
        (((1, 16385),) * 2 + ((16385,),), torch.float32, "rows of 16385, expected at most 16384.* ops.add_rms_norm="),
    ],
)
def test_what_the_kernels_do_not_take_is_refused(shapes, dtype, message):
    with pytest.raises(ValueError, match=message):
        add_rms_norm(*(torch.zeros(shape, dtype=dtype, device=DEVICE) for shape in shapes), EPSILON)
