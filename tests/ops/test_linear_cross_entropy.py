"""The chunked losses, in plain PyTorch and in Triton: against their reference, their memory, and what is left out."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.linear_cross_entropy import chunks, rows
from litespark.ops.linear_cross_entropy import on_cpu as loss_on_cpu
from litespark.ops.linear_cross_entropy.chunked import linear_cross_entropy_chunked
from litespark.ops.linear_cross_entropy.reference import linear_cross_entropy
from litespark.ops.linear_cross_entropy.rows import Settings
from litespark.ops.tolerance import outputs_and_gradients, relative_distance
from tests.ops.assertions import assert_close, assert_op_matches

pytest.importorskip("triton")
from litespark.ops.linear_cross_entropy import kernels
from tests.properties import given, settings, st

BACKEND_NAMES = [name for name in BACKENDS["linear_cross_entropy"] if name != REFERENCE]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WAYS = {"rows": rows, "kernels": kernels}
CHUNK = 4


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """CHUNK tokens in a chunk, and blocks of 64 bytes of logits in the kernels."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("CHUNK_BYTES", 1), ("LEAST_ROWS", CHUNK), ("ROW_MULTIPLE", CHUNK)):
            patch.setattr(chunks, name, value)
        patch.setattr(kernels, "_MOST_BLOCK_BYTES", 64)
        yield


@pytest.fixture(params=BACKEND_NAMES)
def op(request):
    return load("linear_cross_entropy", request.param)


def draw(tokens=6, width=12, vocab_size=37, ignored=(2,), ignore_index=-100):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    labels[[index for index in ignored if index < tokens]] = ignore_index
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocab_size, width, generator=generator) / 2
    return {"hidden": hidden.to(DEVICE), "weight": weight.to(DEVICE), "fixed labels": labels.to(DEVICE)}


def leaves(**sizes):
    hidden, weight, labels = draw(**sizes).values()
    return hidden.requires_grad_(), weight.requires_grad_(), labels


def losses_of(op, **options):
    def run(hidden, weight, labels):
        found = op(hidden, weight, labels, **options)
        return found.nats if isinstance(found, tuple) else found

    return run


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    st.integers(1, 11),
    st.integers(1, 24),
    st.integers(1, 75),
    st.sampled_from(BACKEND_NAMES),
    st.sampled_from(["sum", "mean", "none"]),
)
def test_matches_the_reference_at_any_size(dtype, tokens, width, vocab_size, name, reduction):
    run, reference = (losses_of(load("linear_cross_entropy", each), reduction=reduction) for each in (name, REFERENCE))
    assert_op_matches(run, reference, draw(tokens, width, vocab_size), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "sum"},
        {"reduction": "none", "softcap": 3.0},
        {"reduction": "mean", "z_loss": 0.1, "softcap": 2.0, "ignore_index": 5},
    ],
    ids=" ".join,
)
def test_matches_the_reference_with_every_option(op, options, dtype):
    inputs = draw(ignored=(0, 3), ignore_index=options.get("ignore_index", -100))
    assert_op_matches(losses_of(op, **options), losses_of(linear_cross_entropy, **options), inputs, dtype)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_a_cpu_multiplies_the_head_with_no_token_whose_label_is_ignored(reduction, monkeypatch):
    monkeypatch.setattr(loss_on_cpu, "_GATHERED", 2)
    inputs = draw(tokens=12, ignored=(0, 3, 4, 11))
    hidden, _, labels = inputs.values()
    inputs |= {"hidden": hidden.view(3, 4, -1), "fixed labels": labels.view(3, 4)}
    sizes = []
    monkeypatch.setattr(loss_on_cpu, "linear_cross_entropy_chunked", lambda hidden, *rest, **options: (
        sizes.append(hidden.shape), linear_cross_entropy_chunked(hidden, *rest, **options))[1])  # fmt: skip
    run = losses_of(loss_on_cpu.linear_cross_entropy_cpu, reduction=reduction)
    assert_op_matches(run, losses_of(linear_cross_entropy, reduction=reduction), inputs, torch.float32)
    assert sizes == [(8, 12)]
    found = loss_on_cpu.linear_cross_entropy_cpu(*inputs.values(), reduction="none")
    assert torch.equal(found.correct, linear_cross_entropy(*inputs.values(), reduction="none").correct)


def test_gradients_against_finite_differences():
    hidden, weight, labels = leaves(tokens=5, width=3, vocab_size=6)
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    run = losses_of(linear_cross_entropy_chunked, z_loss=0.1, softcap=2.0)
    assert torch.autograd.gradcheck(lambda *inputs: run(*inputs, labels), (hidden, weight))


def test_logits_of_ten_thousand_overflow_nothing(op):
    inputs = draw()
    inputs["hidden"], inputs["weight"] = inputs["hidden"].sign() * 100, inputs["weight"].sign() * 100
    logits = inputs["hidden"] @ inputs["weight"].T
    assert logits.max() > 1e4
    assert logits.min() < -1e4
    for dtype in (torch.float32, torch.bfloat16):
        assert_op_matches(losses_of(op), losses_of(linear_cross_entropy), inputs, dtype)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20])
def test_factors_beyond_fp16_cost_no_accuracy(op, factor):
    """A gradient scaler's factor, or the share of one token in a million, in fp16 with gradients in fp32."""
    found = []
    for upstream in (1.0, factor):
        hidden, weight, labels = leaves()
        with torch.autocast(DEVICE.type, torch.float16):
            loss = op(hidden, weight, labels)
        gradients = torch.autograd.grad(loss * upstream, (hidden, weight))
        found.append({name: x / upstream for name, x in zip(("hidden", "weight"), gradients, strict=True)})
    assert_close(*found)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_nothing_to_predict_is_a_loss_of_zero_without_gradients(op, reduction):
    for tokens in (3, 0):
        found = outputs_and_gradients(losses_of(op, reduction=reduction), draw(tokens, ignored=range(tokens)))
        assert all(x.eq(0).all() for x in found.values())
        assert found["gradient of weight"].shape == (37, 12)


@pytest.mark.parametrize("label", [-1, 37, 10**12])
def test_a_label_that_is_no_token_id_makes_the_loss_infinite_and_nan_is_not_hidden(op, label):
    hidden, weight, labels = leaves()
    labels[0] = label
    assert op(hidden, weight, labels).isposinf()
    nats, correct = op(hidden, weight, labels, reduction="none")
    assert nats.isposinf().tolist() == [True] + [False] * 5
    assert not correct[0]
    hidden.data[1, 0] = float("nan")
    assert op(hidden, weight, labels).isnan()
    assert op(hidden, weight, labels, reduction="none").nats.isnan().tolist() == [False, True] + [False] * 4


def test_the_first_of_equal_logits_is_the_likeliest(op):
    hidden, weight, labels = leaves(tokens=3, vocab_size=50, ignored=())
    weight.data[:] = 0
    # in one lane of two blocks, in two lanes of one block, and everywhere
    weight.data[[7, 39]] = weight.data[[8, 11]] = 1.0
    hidden.data[:] = 1.0
    hidden.data[2] = 0.0
    for label in (0, 7, 8, 39):
        labels[:] = label
        correct = op(hidden, weight, labels, reduction="none").correct
        assert correct.tolist() == [label == 7, label == 7, label == 0]


@pytest.mark.parametrize("way", WAYS)
def test_an_ignored_label_is_never_the_likeliest(way):
    logits, labels = torch.zeros(2, 5, device=DEVICE), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    assert not WAYS[way].losses(logits, labels, Settings(ignore_index=0), False).correct.any()


def test_a_row_may_lie_beyond_2_31_logits():
    """Three rows 2^30 logits apart; memory that is not touched takes no room on a CPU."""
    stride = 2**30 + 8
    try:
        memory = torch.empty(2 * stride + 40, dtype=torch.float16, device=DEVICE)
    except RuntimeError:
        pytest.skip("there is no room for 4 GiB")
    logits = memory.as_strided((3, 40), (stride, 1))
    values = draw(tokens=3, width=40)["hidden"].half()
    labels = torch.tensor([3, 39, 0], device=DEVICE)
    expected = values.clone()
    wanted = rows.losses(expected, labels, Settings(), True)
    logits.copy_(values)
    assert relative_distance(kernels.losses(logits, labels, Settings(), True).loss, wanted.loss) <= 1e-5
    assert relative_distance(logits, expected) <= 1e-3
    logits.copy_(values)
    kernels.gradient_(logits, labels, wanted.maximum, wanted.sum_exp, None, Settings())
    assert relative_distance(logits, expected) <= 1e-3


# ---------------------------------------------------------------- precision


def test_the_gradient_of_the_weight_is_summed_in_fp32(op):
    """Under autocast, so that nothing is rounded afterwards: far closer than one rounding to bf16 (2e-3).

    PyTorch has no product of bf16 into fp32 on a CPU: there each chunk's product is rounded once, and no more.
    """
    hidden, weight, labels = leaves(tokens=16, ignored=())
    hidden, weight = (x.detach().bfloat16().float().requires_grad_() for x in (hidden, weight))
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    p = logits.softmax(-1) - torch.nn.functional.one_hot(labels, 37)
    products = [one.bfloat16().float().T @ h for one, h in zip(p.split(CHUNK), hidden.split(CHUNK), strict=True)]
    expected = sum(x if DEVICE.type == "cuda" else x.bfloat16().float() for x in products)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = op(hidden, weight, labels)
        (found,) = torch.autograd.grad(loss, weight)
    assert relative_distance(found, expected) < 3e-4


# ---------------------------------------------------------------- memory and work


class _Watch(TorchDispatchMode):
    """The bytes of the largest tensor that any operation returns, and the operations, below custom ops too."""

    def __init__(self):
        super().__init__()
        self.largest, self.operations = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.operations.add(func.overloadpacket)
        sizes = [x.untyped_storage().nbytes() for x in tree_leaves(found) if torch.is_tensor(x)]
        self.largest = max([self.largest, *sizes])
        return found


def _all_work(way, hidden, weight, labels):
    """What the custom ops run, called directly, since a dispatch mode sees a custom op as one."""
    options = (way, torch.float32, -100, 0.0, 0.0)
    loss, maximum, sum_exp, _ = chunks.token_losses(hidden, weight, labels, *options)
    chunks.loss_and_gradients(hidden, weight, labels, *options, True, True)
    chunks.token_gradients(hidden, weight, labels, torch.ones_like(loss), maximum, sum_exp, *options, True, True)


@pytest.mark.parametrize("way", WAYS)
def test_logits_are_never_whole_and_the_device_is_never_waited_for(way, monkeypatch):
    hidden, weight, labels = (x.detach() for x in leaves(tokens=12, width=2, vocab_size=70))
    with _Watch() as watch:
        _all_work(way, hidden, weight, labels)
    # rows of logits are padded to 128 bytes
    assert watch.largest == CHUNK * 96 * 4
    # reading a value on the host; without a GPU, Triton's interpreter itself does it
    if way == "rows":
        waits = {"_local_scalar_dense", "nonzero", "item", "is_nonzero"}
        assert waits.isdisjoint(operation.__name__ for operation in watch.operations)
    # the watch would see it
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2**20)
    with _Watch() as watch:
        _all_work(way, hidden, weight, labels)
    assert watch.largest >= 12 * 70 * 4


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_what_is_saved_for_the_backward_pass_serves_a_second_one(op, reduction):
    hidden, weight, labels = leaves(tokens=9, width=4, vocab_size=70)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        loss = losses_of(op, reduction=reduction)(hidden, weight, labels).sum()
    assert {shape for shape in saved if len(shape) > 1} == {hidden.shape, weight.shape}
    first, second = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_without_gradients_none_are_made(op, monkeypatch):
    monkeypatch.setattr(chunks, "_accumulate", lambda *_, **__: pytest.fail("a gradient was made"))
    hidden, weight, labels = leaves()
    for reduction in ("sum", "mean", "none"):
        run = losses_of(op, reduction=reduction)
        expected = losses_of(linear_cross_entropy, reduction=reduction)(hidden, weight, labels)
        with torch.no_grad():
            assert relative_distance(run(hidden, weight, labels), expected) <= 1e-5
        assert not run(hidden.detach(), weight.detach(), labels).requires_grad
    # nor that of a frozen weight
    torch.autograd.grad(op(hidden, weight.detach(), labels), hidden)


def test_chunks_have_equal_sizes_in_whole_tiles(monkeypatch):
    for name, value in (("CHUNK_BYTES", 256 * 2**20), ("LEAST_ROWS", 1024), ("ROW_MULTIPLE", 128)):
        monkeypatch.setattr(chunks, name, value)
    # bf16: 256 MiB hold 4194 rows of 32000 and 1046 of 128256
    assert chunks.rows_in_chunk(16384, 32000, 2) == 4096
    assert chunks.rows_in_chunk(4352, 32000, 2) == 2176
    assert chunks.rows_in_chunk(16384, 128256, 2) == 1024
    # where the rule of bytes would starve the matrix products
    assert chunks.rows_in_chunk(16384, 10**6, 4) == 1024
    assert chunks.rows_in_chunk(1, 32000, 2) == chunks.rows_in_chunk(0, 32000, 2) == 128


# ---------------------------------------------------------------- refusals

HIDDEN, WEIGHT, LABELS = torch.zeros(2, 4), torch.zeros(6, 4), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("inputs", "options", "match"),
    [
        ((HIDDEN, WEIGHT, LABELS[:1]), {}, r"labels \(1,\); expected \(..., D\), \(V, D\) and \(...\)"),
        ((HIDDEN, WEIGHT, LABELS), {"reduction": "max"}, "reduction is 'max'; expected 'sum', 'mean' or 'none'"),
        ((HIDDEN, WEIGHT, LABELS), {"z_loss": 0.1, "reduction": "none"}, "z_loss is 0.1 with reduction 'none'"),
        ((HIDDEN, WEIGHT, LABELS), {"softcap": -1.0}, "softcap is -1.0; expected a positive cap"),
        ((HIDDEN, WEIGHT.half(), LABELS), {}, "weight torch.float16; expected the same dtype, or autocast"),
        ((HIDDEN, WEIGHT[:0], LABELS), {}, r"weight \(0, 4\)"),
        ((HIDDEN, WEIGHT, LABELS.float()), {}, "labels are torch.float32; expected int64"),
        ((HIDDEN.double(), WEIGHT.double(), LABELS), {}, r"got torch.float64, expected fp32, bf16 or fp16.*=chunked"),
    ],
)
def test_what_the_kernels_cannot_compute_is_refused(inputs, options, match):
    with pytest.raises(ValueError, match=match):
        load("linear_cross_entropy", "triton")(*inputs, **options)
