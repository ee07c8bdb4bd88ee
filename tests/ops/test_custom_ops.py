"""What holds of every op over kernels of ours alike: bits, strides, both forms, meta tensors and PyTorch's rules."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch._library.custom_ops import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode

from litespark.ops.backend import BACKENDS, REFERENCE, load, why_not
from litespark.ops.cases import EPSILON, Case, cases
from litespark.ops.rope.reference import inverse_frequencies, rope_tables
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import outputs_and_gradients
from tests.ops.assertions import assert_close, assert_op_matches

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = StepShapes(sequences=2, length=5, hidden_size=24, num_heads=4, num_kv_heads=2, head_dim=16,
                    intermediate_size=20, vocab_size=37, documents=True)  # fmt: skip
# of ops that other models than ours use in another way too: the last case
VARIED = {"rope", "swiglu", "swiglu_linear", "attention"}
CASES = {"attention": 2, "linear_cross_entropy": 2}
# op, backend, number of the case
USES = [
    (op, name, number)
    for op, known in BACKENDS.items()
    for name in known
    if op != "fp8"
    and name.startswith(("triton", "chunked", "torch", "cpu"))
    and why_not(op, name, DEVICE, torch.float32) is None
    # a norm of the update is apart from the addition but in Triton
    for number in range(3 if (op, name) == ("add_rms_norm", "triton") else CASES.get(op, 1) + (op in VARIED))
]
VARIATIONS = [use for use in USES if use[0] in VARIED and (*use[:2], use[2] + 1) not in USES]
ALL = pytest.mark.parametrize(("op", "name", "number"), USES)


def case_of(op: str, number: int, shapes: StepShapes = SHAPES) -> Case:
    usual = cases(op, shapes, DEVICE)
    return usual[number] if number < len(usual) else _varied(usual[0])


def _varied(case: Case) -> Case:
    if case.op == "add_rms_norm":  # no norm of the sum
        return replace(case, call=lambda op, x, update, weight: op(x, update, None, 0.0, (weight, EPSILON)))
    if case.op == "rope":  # a part of each head, in pairs of neighbours, and queries alone
        cos, sin = rope_tables(
            torch.arange(SHAPES.length, device=DEVICE)[None], inverse_frequencies(6, 100.0).to(DEVICE)
        )
        inputs = {**case.inputs, "fixed cos": cos, "fixed sin": sin}
        return replace(case, inputs=inputs, call=lambda op, *given: op(*given, 0, interleaved=True)[0])
    options = {"scale": 0.5, "softcap": 2.0} if case.op == "attention" else {"activation": "gelu_tanh"}
    return replace(case, call=lambda op, *given: op(*given, **options))


def called(case: Case, name: str, change=lambda x: x):
    """The op as the case calls it, with `change` made to each input on its way."""
    function = load(case.op, name)
    return lambda *inputs: case.call(function, *map(change, inputs))


def as_tuple(outputs) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def leaves_of(case: Case, device=DEVICE) -> list[torch.Tensor]:
    """Inputs that want gradients, but for those that are fixed."""
    return [
        x.to(device, copy=True).requires_grad_(x.is_floating_point() and not name.startswith("fixed"))
        for name, x in case.inputs.items()
    ]


class _Watched(TorchDispatchMode):
    """Sees every op and changes nothing."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@ALL
def test_eager_calls_skip_the_dispatcher_and_give_the_bits_of_the_custom_op(op, name, number, monkeypatch):
    if name == "cpu" and op != "attention":
        pytest.skip("where a mode watches, it is PyTorch's operations")
    case = case_of(op, number)
    with _Watched():
        expected = outputs_and_gradients(called(case, name), case.inputs)
    monkeypatch.setattr(CustomOpDef, "__call__", lambda *_, **__: pytest.fail("dispatched as a custom op"))
    found = outputs_and_gradients(called(case, name), case.inputs)
    assert all(torch.equal(found[each], expected[each]) for each in expected)


@pytest.mark.parametrize("mode", [nullcontext, _Watched], ids=["eager", "custom op"])
@pytest.mark.parametrize(("op", "name"), [(op, name) for op, name, number in USES if number == 0 and name != "torch"])
def test_a_second_derivative_is_refused(op, name, mode):
    if name == "cpu" and op not in ("attention", "linear_cross_entropy") and mode is _Watched:
        pytest.skip("where a mode watches, it is PyTorch's operations")
    case = case_of(op, 0)
    leaves = leaves_of(case)
    with mode():
        total = sum(y.sin().sum() for y in as_tuple(called(case, name)(*leaves)))
        first = torch.autograd.grad(total, [leaf for leaf in leaves if leaf.requires_grad], create_graph=True)
        with pytest.raises(RuntimeError, match=r"differentiate twice|no autograd formula"):
            sum(gradient.sum() for gradient in first).backward()


def _between_nan(x, dim):
    """The same values with others between them in memory."""
    filling = torch.full_like(x, torch.nan) if x.is_floating_point() else torch.zeros_like(x)
    return torch.stack([x, filling], dim=dim).select(dim, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: _between_nan(x, 0) if x.ndim > 1 else x,
        lambda x: _between_nan(x, x.ndim - 1),
        lambda x: _between_nan(x, x.ndim),
        lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    ],
    ids=["rows apart", "last dimension apart", "values apart", "first dimension last"],
)
@ALL
def test_strides_of_inputs_and_of_gradients_do_not_matter(op, name, number, change):
    case = case_of(op, number)

    def strided(backend):
        run = called(case, backend, change)

        def turned(*inputs):
            outputs = run(*inputs)
            # the incoming gradient has strides too: it comes through a transposition
            return tuple(y.transpose(0, -1).contiguous() if y.ndim else y for y in as_tuple(outputs))

        return turned

    assert_op_matches(strided(name), strided(REFERENCE), case.inputs, torch.float32)


@ALL
def test_each_input_may_be_frozen(op, name, number):
    case = case_of(op, number)
    for learned in (each for each in case.inputs if not each.startswith("fixed")):
        gradients = []
        for backend in (name, REFERENCE):
            leaves = {each: x.clone().requires_grad_(each == learned) for each, x in case.inputs.items()}
            outputs = as_tuple(called(case, backend)(*leaves.values()))
            gradients.append({learned: torch.autograd.grad(sum(y.sin().sum() for y in outputs), leaves[learned])[0]})
        assert_close(*gradients)


@ALL
def test_nothing_gives_nothing(op, name, number):
    case = case_of(op, number if op != "attention" else 0, replace(SHAPES, sequences=0, documents=False))
    found = outputs_and_gradients(called(case, name), case.inputs)
    for each, x in case.inputs.items():
        if f"gradient of {each}" in found:
            assert found[f"gradient of {each}"].shape == x.shape
    assert all(not x.any() for x in found.values())


@ALL
def test_under_autocast_results_are_near_and_gradients_in_the_dtypes_of_the_inputs(op, name, number):
    case = case_of(op, number)
    leaves = leaves_of(case)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        outputs = as_tuple(called(case, name)(*leaves))
    exact = as_tuple(called(case, REFERENCE)(*case.inputs.values()))
    assert_close(dict(enumerate(outputs)), dict(enumerate(exact)), 2e-2)
    torch.autograd.backward([y.float().sum() for y in outputs])
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves if leaf.requires_grad)


@ALL
def test_the_compiler_sees_one_graph(op, name, number):
    case = case_of(op, number)
    torch.compiler.reset()
    compiled = torch.compile(called(case, name), fullgraph=True, backend="aot_eager")
    assert_close(outputs_and_gradients(compiled, case.inputs), outputs_and_gradients(called(case, name), case.inputs))


@ALL
def test_meta_tensors_pass_through(op, name, number):
    case = case_of(op, number)
    if case.documents is not None:
        pytest.skip("documents lie on the device")
    leaves, there = leaves_of(case), leaves_of(case, "meta")
    expected, outputs = (as_tuple(called(case, name)(*each)) for each in (leaves, there))
    assert [y.shape for y in outputs] == [y.shape for y in expected]
    torch.autograd.backward([y.sum() for y in outputs])
    assert all(leaf.grad.shape == leaf.shape for leaf in there if leaf.requires_grad)


class _CustomOps(TorchDispatchMode):
    """Takes note of the calls of custom ops of ours."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "litespark":
            learned = "backward" not in function.name()
            copies = [
                x.detach().clone().requires_grad_(learned and x.requires_grad) if torch.is_tensor(x) else x
                for x in args
            ]
            self.calls.append((function, copies, kwargs or {}))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("op", "name", "number"),
    # another scale or activation is another number among the arguments
    [use for use in USES if use[1] not in ("torch", "cpu") and use not in VARIATIONS],
)
def test_custom_ops_keep_pytorch_s_rules(op, name, number):
    case = case_of(op, number)
    with _CustomOps() as noted:
        outputs_and_gradients(called(case, name), case.inputs)
    assert len(noted.calls) >= 2
    for function, args, kwargs in noted.calls:
        torch.library.opcheck(function, tuple(args), kwargs)
