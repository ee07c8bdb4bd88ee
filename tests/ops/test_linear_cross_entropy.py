"""The chunked losses, in plain PyTorch and in Triton, against their reference; chunks and blocks are tiny here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.linear_cross_entropy import chunks, rows
from litespark.ops.linear_cross_entropy.chunked import _chunked, linear_cross_entropy_chunked
from litespark.ops.linear_cross_entropy.chunks import rows_in_chunk
from litespark.ops.linear_cross_entropy.reference import linear_cross_entropy
from litespark.ops.linear_cross_entropy.rows import Settings, combine, token_losses
from litespark.ops.tolerance import outputs_and_gradients, relative_distance
from tests.ops.assertions import assert_close, assert_op_matches

pytest.importorskip("triton")
from litespark.ops.linear_cross_entropy import kernels
from litespark.ops.linear_cross_entropy.function import _triton

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BACKEND_NAMES = [name for name in BACKENDS["linear_cross_entropy"] if name != REFERENCE]
WAYS = {"torch": rows, "triton": kernels}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHUNK = 4
CHUNK_RULES = {name: getattr(chunks, name) for name in ("CHUNK_BYTES", "LEAST_ROWS", "ROW_MULTIPLE")}


@pytest.fixture(autouse=True, scope="module")
def tiny_chunks_and_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", 1)
        patch.setattr(chunks, "LEAST_ROWS", CHUNK)
        patch.setattr(chunks, "ROW_MULTIPLE", CHUNK)
        patch.setattr(kernels, "_MOST_BLOCK_BYTES", 64)
        yield


@pytest.fixture(params=BACKEND_NAMES)
def op(request):
    return load("linear_cross_entropy", request.param)


def _inputs(tokens=6, width=12, vocabulary=37, ignored=(2,), ignore_index=-100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    labels[[index for index in ignored if index < tokens]] = ignore_index
    inputs = {
        "hidden": torch.randn(tokens, width, generator=generator),
        "weight": torch.randn(vocabulary, width, generator=generator) / 2,
        "fixed labels": labels,
    }
    return {name: x.to(DEVICE) for name, x in inputs.items()}


def _leaves(**sizes):
    inputs = _inputs(**sizes)
    return inputs["hidden"].requires_grad_(), inputs["weight"].requires_grad_(), inputs["fixed labels"]


def _with(op, **options):
    def run(hidden, weight, labels):
        found = op(hidden, weight, labels, **options)
        return found.nats if isinstance(found, tuple) else found

    return run


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    st.integers(1, 11), st.integers(1, 24), st.integers(1, 75), st.sampled_from(BACKEND_NAMES),
    st.sampled_from(["sum", "mean", "none"]),
)  # fmt: skip
def test_matches_the_reference_at_any_size(dtype, tokens, width, vocabulary, name, reduction):
    fast = load("linear_cross_entropy", name)
    inputs = _inputs(tokens, width, vocabulary)
    assert_op_matches(_with(fast, reduction=reduction), _with(linear_cross_entropy, reduction=reduction), inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "sum"},
        {"reduction": "none", "softcap": 3.0},
        {"reduction": "mean", "z_loss": 0.1, "softcap": 2.0},
    ],
    ids=lambda options: " ".join(options),
)
def test_matches_the_reference_with_every_option(op, options, dtype):
    assert_op_matches(_with(op, **options), _with(linear_cross_entropy, **options), _inputs(), dtype)


def test_a_label_that_is_ignored_may_be_a_token_id(op):
    options = {"ignore_index": 5, "reduction": "mean"}
    inputs = _inputs(ignored=(0, 3), ignore_index=5)
    assert_op_matches(_with(op, **options), _with(linear_cross_entropy, **options), inputs, torch.float32)


def test_gradients_against_finite_differences():
    hidden, weight, labels = _leaves(tokens=5, width=3, vocabulary=6)
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    for options in ({"z_loss": 0.1, "softcap": 2.0}, {"reduction": "none"}):
        run = _with(linear_cross_entropy_chunked, **options)
        assert torch.autograd.gradcheck(lambda h, w, run=run: run(h, w, labels), (hidden, weight))


def test_logits_of_ten_thousand_overflow_nothing(op):
    inputs = _inputs()
    inputs["hidden"] = inputs["hidden"].sign() * 100
    inputs["weight"] = inputs["weight"].sign() * 100
    logits = inputs["hidden"] @ inputs["weight"].T
    assert logits.max() > 1e4
    assert logits.min() < -1e4
    for dtype in (torch.float32, torch.bfloat16):
        assert_op_matches(_with(op), _with(linear_cross_entropy), inputs, dtype)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20])
def test_factors_beyond_fp16_cost_no_accuracy(op, factor):
    """A gradient scaler's factor, or the share of one token in a million, in fp16 with gradients in fp32."""
    found = []
    for upstream in (1.0, factor):
        hidden, weight, labels = _leaves()
        with torch.autocast(DEVICE.type, torch.float16):
            loss = op(hidden, weight, labels)
        gradients = torch.autograd.grad(loss * upstream, (hidden, weight))
        found.append({name: x / upstream for name, x in zip(("hidden", "weight"), gradients, strict=True)})
    assert_close(*found)


def test_ignored_tokens_have_no_loss_and_no_gradient(op):
    inputs = _inputs(ignored=(1, 5))
    found = outputs_and_gradients(_with(op, reduction="none"), inputs)
    assert found["output 0"][[1, 5]].eq(0).all()
    assert found["gradient of hidden"][[1, 5]].eq(0).all()
    assert found["gradient of hidden"][[0, 2]].ne(0).all()


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_nothing_to_predict_is_a_loss_of_zero(op, reduction):
    for tokens in (3, 0):
        found = outputs_and_gradients(_with(op, reduction=reduction), _inputs(tokens, ignored=range(tokens)))
        assert all(x.eq(0).all() for x in found.values())
        assert found["gradient of weight"].shape == (37, 12)


@pytest.mark.parametrize("label", [-1, 37, 10**12])
def test_a_label_that_is_no_token_id_makes_the_loss_infinite(op, label):
    hidden, weight, labels = _leaves()
    labels[0] = label
    assert op(hidden, weight, labels).isposinf()
    nats, correct = op(hidden, weight, labels, reduction="none")
    assert nats.isposinf().tolist() == [True] + [False] * 5
    assert not correct[0]


def test_nan_is_not_hidden(op):
    hidden, weight, labels = _leaves()
    hidden.data[0, 0] = float("nan")
    assert op(hidden, weight, labels).isnan()
    assert op(hidden, weight, labels, reduction="none").nats.isnan().tolist() == [True] + [False] * 5


def test_the_first_of_equal_logits_is_the_likeliest(op):
    hidden, weight, labels = _leaves(tokens=3, vocabulary=50, ignored=())
    weight.data[:] = 0
    # in one lane of two blocks, in two lanes of one block, and everywhere
    weight.data[[7, 39]] = weight.data[[8, 11]] = 1.0
    hidden.data[:] = 1.0
    hidden.data[2] = 0.0
    for label in (0, 7, 8, 39):
        labels[:] = label
        correct = op(hidden, weight, labels, reduction="none").correct
        assert correct.tolist() == [label == 7, label == 7, label == 0]


def test_shape_dtype_and_differentiability_of_what_is_returned(op):
    hidden, weight, labels = _leaves(tokens=6)
    hidden, labels = hidden.view(2, 3, -1), labels.view(2, 3)
    nats, correct = op(hidden.bfloat16(), weight.bfloat16(), labels, reduction="none")
    assert (nats.shape, nats.dtype, nats.requires_grad) == ((2, 3), torch.float32, True)
    assert (correct.shape, correct.dtype, correct.requires_grad) == ((2, 3), torch.bool, False)
    total = op(hidden.bfloat16(), weight.bfloat16(), labels)
    assert (total.shape, total.dtype) == ((), torch.float32)


@pytest.mark.parametrize("slice_", [lambda x: x[:, ::2], lambda x: x.repeat(1, 2)[:, :24]], ids=["columns", "rows"])
def test_strided_inputs(op, slice_):
    hidden, weight, labels = (x.detach() for x in _leaves(width=24))
    found = []
    for run in (op, linear_cross_entropy):
        h, w = slice_(hidden).requires_grad_(), slice_(weight).requires_grad_()
        loss = run(h, w, labels)
        found.append((loss, *torch.autograd.grad(loss, (h, w))))
    assert all(relative_distance(a, b) <= 1e-5 for a, b in zip(*found, strict=True))


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
    """What the custom ops of both backends run, called directly, since a dispatch mode sees a custom op as one."""
    options = (WAYS[way].ROWS, hidden, weight, labels)
    loss = chunks.losses(*options, torch.float32, Settings())
    chunks.losses_and_gradients(*options, torch.float32, Settings(), (True, True))
    upstream, statistics = torch.ones_like(loss.loss), (loss.maximum, loss.sum_exp)
    chunks.gradients(
        WAYS[way].ROWS, upstream, hidden, weight, labels, *statistics, torch.float32, Settings(), (True, True)
    )


@pytest.mark.parametrize("way", WAYS)
def test_logits_are_never_whole_and_the_device_is_never_waited_for(way, monkeypatch):
    hidden, weight, labels = (x.detach() for x in _leaves(tokens=12, width=2, vocabulary=70))
    with _Watch() as watch:
        _all_work(way, hidden, weight, labels)
    # rows of logits are padded to 128 bytes
    assert watch.largest == CHUNK * 96 * 4
    # reading a value on the host; without a GPU, Triton's interpreter itself does it
    if way == "torch":
        waits = {"_local_scalar_dense", "nonzero", "item", "is_nonzero"}
        assert waits.isdisjoint(operation.__name__ for operation in watch.operations)
    # the watch would see it
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2**20)
    with _Watch() as watch:
        _all_work(way, hidden, weight, labels)
    assert watch.largest >= 12 * 70 * 4


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_what_is_saved_for_the_backward_pass(op, reduction):
    hidden, weight, labels = _leaves(tokens=9, width=4, vocabulary=70)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        loss = op(hidden, weight, labels, reduction=reduction)
    assert loss[0].requires_grad if reduction == "none" else loss.requires_grad
    assert {shape for shape in saved if len(shape) > 1} == {hidden.shape, weight.shape}


def test_without_gradients_none_are_made(op, monkeypatch):
    def unexpected(*_, **__):
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(chunks, "losses_and_gradients", unexpected)
    monkeypatch.setattr(chunks, "_accumulate", unexpected)
    hidden, weight, labels = _leaves()
    detached = hidden.detach(), weight.detach()
    for reduction in ("sum", "mean", "none"):
        run = _with(op, reduction=reduction)
        expected = _with(linear_cross_entropy, reduction=reduction)(*detached, labels)
        with torch.no_grad():
            assert relative_distance(run(hidden, weight, labels), expected) <= 1e-5
        assert relative_distance(run(*detached, labels), expected) <= 1e-5


def test_only_gradients_that_are_needed_are_made(op, monkeypatch):
    hidden, weight, labels = _leaves()
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels), (hidden, weight))
    (found,) = torch.autograd.grad(op(hidden.detach(), weight, labels), weight)
    assert relative_distance(found, expected[1]) <= 1e-5

    def unexpected(*_, **__):
        raise AssertionError("a gradient of the weight was made")

    monkeypatch.setattr(chunks, "_accumulate", unexpected)
    (found,) = torch.autograd.grad(op(hidden, weight.detach(), labels), hidden)
    assert relative_distance(found, expected[0]) <= 1e-5


def test_a_second_backward_pass_gives_the_same_gradients(op):
    hidden, weight, labels = _leaves()
    loss = op(hidden, weight, labels) * 3
    first, second = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels) * 3, (hidden, weight))
    for one, other, right in zip(first, second, expected, strict=True):
        assert torch.equal(one, other)
        assert relative_distance(one, right) <= 1e-5


def test_runs_are_equal_to_the_bit(op):
    first, second = (outputs_and_gradients(_with(op), _inputs()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_chunks_have_equal_sizes_in_whole_tiles(monkeypatch):
    for name, value in CHUNK_RULES.items():
        monkeypatch.setattr(chunks, name, value)
    # bf16: 256 MiB hold 4194 rows of 32000 and 1046 of 128256
    assert rows_in_chunk(16384, 32000, 2) == 4096
    assert rows_in_chunk(4352, 32000, 2) == 2176
    assert rows_in_chunk(16384, 128256, 2) == 1024
    # where the rule of bytes would starve the matrix products
    assert rows_in_chunk(16384, 10**6, 4) == 1024
    assert rows_in_chunk(1, 32000, 2) == 128
    assert rows_in_chunk(0, 32000, 2) == 128


# ---------------------------------------------------------------- dtypes, autocast, compiler


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_autocast_multiplies_in_bf16_and_returns_gradients_in_the_dtypes_of_the_inputs(op, reduction):
    found = []
    for run in (op, linear_cross_entropy):
        hidden, weight, labels = _leaves()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = _with(run, reduction=reduction)(hidden, weight, labels)
        assert loss.dtype == torch.float32
        loss.sum().backward()
        assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
        found.append({"loss": loss, "hidden": hidden.grad, "weight": weight.grad})
    assert_close(*found, bound=1e-2)
    exact = _leaves()
    assert relative_distance(found[0]["loss"], _with(linear_cross_entropy, reduction=reduction)(*exact)) > 1e-5


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_autocast_does_not_reach_the_sums_in_fp32(op, reduction, monkeypatch):
    seen = []

    def watched(function):
        def run(*args):
            seen.append(torch.is_autocast_enabled(DEVICE.type))
            return function(*args)

        return run

    for name in ("losses", "losses_and_gradients", "gradients"):
        monkeypatch.setattr(chunks, name, watched(getattr(chunks, name)))
    hidden, weight, labels = _leaves()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        _with(op, reduction=reduction)(hidden, weight, labels).sum().backward()
    assert seen
    assert not any(seen)


def test_the_gradient_of_the_weight_is_summed_in_fp32(op):
    """Under autocast, so that nothing is rounded afterwards: far closer than one rounding to bf16 (2e-3)."""
    hidden, weight, labels = _leaves(tokens=16, ignored=())
    hidden, weight = (x.detach().bfloat16().float().requires_grad_() for x in (hidden, weight))
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    p = logits.softmax(-1) - torch.nn.functional.one_hot(labels, 37)
    expected = p.bfloat16().float().T @ hidden
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = op(hidden, weight, labels)
    (found,) = torch.autograd.grad(loss, weight)
    assert relative_distance(found, expected) < 3e-4


def test_tied_weights_get_the_gradients_of_both_uses(op):
    found = []
    for run in (op, linear_cross_entropy):
        _, weight, labels = _leaves(ignored=())
        run(torch.nn.functional.embedding(labels.flip(0), weight).tanh(), weight, labels).backward()
        found.append(weight.grad)
    assert relative_distance(*found) <= 1e-5


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_the_compiler_sees_one_graph(op, reduction):
    def program(hidden, weight, labels):
        return _with(op, reduction=reduction)(hidden * 2, weight, labels).square().sum()

    torch.compiler.reset()
    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    found = []
    for run in (compiled, program):
        hidden, weight, labels = _leaves()
        loss = run(hidden, weight, labels)
        loss.backward()
        found.append({"loss": loss.detach(), "hidden": hidden.grad, "weight": weight.grad})
    assert_close(*found)


def test_meta_tensors_pass_through(op):
    hidden = torch.empty(2, 3, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.empty(16, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    labels = torch.empty(2, 3, device="meta", dtype=torch.int64)
    op(hidden, weight, labels, reduction="mean").backward()
    assert (hidden.grad.shape, hidden.grad.dtype) == (hidden.shape, torch.bfloat16)
    assert (weight.grad.shape, weight.grad.dtype) == (weight.shape, torch.bfloat16)
    assert op(hidden, weight, labels, reduction="none").correct.shape == (2, 3)


@pytest.mark.parametrize("loss", [_chunked, _triton], ids=["chunked", "triton"])
def test_the_custom_ops_keep_pytorch_s_rules(loss):
    inputs = (*_leaves(tokens=5, width=4, vocabulary=9), torch.float32, -100, 0.1, 2.0)
    torch.library.opcheck(loss.tokens, inputs)
    torch.library.opcheck(loss.sum, (*inputs, True, True))


# ---------------------------------------------------------------- rows, and the seam for a sharded vocabulary


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [Settings(), Settings(z_loss=0.1, softcap=2.0)], ids=["plain", "z-loss and cap"])
def test_two_shards_of_the_vocabulary_give_what_the_whole_gives(way, options):
    inputs = _inputs(tokens=6)
    labels, logits = inputs["fixed labels"], inputs["hidden"] @ inputs["weight"].T
    labels[0], labels[1] = 20, 21  # the last id of the first shard, the first of the second
    logits[3, 4] = logits[3, 30] = 50.0  # a tie between shards
    labels[3] = 4
    whole = logits.clone()
    expected = rows.losses(whole, labels, options, False)
    rows.gradient_(whole, labels, expected.maximum, expected.sum_exp, None, options)

    shards = {0: logits[:, :21].clone(), 21: logits[:, 21:].clone()}
    found = combine([WAYS[way].statistics(shard, labels, options, first) for first, shard in shards.items()])
    losses = token_losses(found, labels, options)
    assert relative_distance(losses.loss, expected.loss) <= 1e-5
    assert torch.equal(losses.correct, expected.correct)
    assert losses.correct[3]
    for first, shard in shards.items():
        WAYS[way].gradient_(shard, labels, losses.maximum, losses.sum_exp, None, options, first)
    assert relative_distance(torch.cat([*shards.values()], dim=1), whole) <= 1e-5


def test_a_shard_without_the_label_does_not_change_its_logit():
    logits = torch.tensor([[1.0, 2.0]], device=DEVICE)
    labels = torch.tensor([5], device=DEVICE)
    for way in WAYS.values():
        found = way.statistics(logits, labels, Settings(), 10)
        assert found.label_logit.isneginf().all()
        assert found.best.tolist() == [11]


def test_a_row_may_lie_beyond_2_31_logits():
    """Three rows 2^30 logits apart; memory that is not touched takes no room on a CPU."""
    stride = 2**30 + 8
    try:
        memory = torch.empty(2 * stride + 40, dtype=torch.float16, device=DEVICE)
    except RuntimeError:
        pytest.skip("there is no room for 4 GiB")
    logits = memory.as_strided((3, 40), (stride, 1))
    values = _inputs(tokens=3, width=40)["hidden"].half()
    labels = torch.tensor([3, 39, 0], device=DEVICE)
    expected = values.clone()
    wanted = rows.losses(expected, labels, Settings(), True)
    logits.copy_(values)
    assert relative_distance(kernels.statistics(logits, labels, Settings()).maximum, values.max(1).values) == 0
    assert relative_distance(kernels.losses(logits, labels, Settings(), True).loss, wanted.loss) <= 1e-5
    assert relative_distance(logits, expected) <= 1e-3
    logits.copy_(values)
    kernels.gradient_(logits, labels, wanted.maximum, wanted.sum_exp, None, Settings())
    assert relative_distance(logits, expected) <= 1e-3


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
    ],
)
def test_what_no_backend_can_compute_is_refused(op, inputs, options, match):
    with pytest.raises(ValueError, match=match):
        op(*inputs, **options)


def test_triton_refuses_dtypes_that_it_would_round():
    for name in ("triton", "triton_recompute"):
        with pytest.raises(ValueError, match=r"got torch.float64, expected fp32, bf16 or fp16.*=chunked"):
            load("linear_cross_entropy", name)(HIDDEN.double(), WEIGHT.double(), LABELS)
