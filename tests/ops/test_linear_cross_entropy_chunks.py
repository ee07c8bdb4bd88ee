"""The work of the chunked losses: its memory, what is saved and what is left out, and its rows."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litespark.ops.backend import load
from litespark.ops.linear_cross_entropy import chunks, rows
from litespark.ops.linear_cross_entropy.chunks import rows_in_chunk
from litespark.ops.linear_cross_entropy.reference import linear_cross_entropy
from litespark.ops.linear_cross_entropy.rows import Settings
from litespark.ops.tolerance import relative_distance

pytest.importorskip("triton")
from litespark.ops.linear_cross_entropy import kernels
from tests.ops.linear_cross_entropy_inputs import (
    BACKEND_NAMES,
    CHUNK,
    DEVICE,
    draw,
    leaves,
    losses_of,
    tiny_chunks,
)

WAYS = {"torch": rows, "triton": kernels}
CHUNK_RULES = {name: getattr(chunks, name) for name in ("CHUNK_BYTES", "LEAST_ROWS", "ROW_MULTIPLE")}


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with tiny_chunks():
        yield


@pytest.fixture(params=BACKEND_NAMES)
def op(request):
    return load("linear_cross_entropy", request.param)


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
    hidden, weight, labels = (x.detach() for x in leaves(tokens=12, width=2, vocab_size=70))
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
    hidden, weight, labels = leaves(tokens=9, width=4, vocab_size=70)
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
    hidden, weight, labels = leaves()
    detached = hidden.detach(), weight.detach()
    for reduction in ("sum", "mean", "none"):
        run = losses_of(op, reduction=reduction)
        expected = losses_of(linear_cross_entropy, reduction=reduction)(*detached, labels)
        with torch.no_grad():
            assert relative_distance(run(hidden, weight, labels), expected) <= 1e-5
        assert relative_distance(run(*detached, labels), expected) <= 1e-5


def test_only_gradients_that_are_needed_are_made(op, monkeypatch):
    hidden, weight, labels = leaves()
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels), (hidden, weight))
    (found,) = torch.autograd.grad(op(hidden.detach(), weight, labels), weight)
    assert relative_distance(found, expected[1]) <= 1e-5

    def unexpected(*_, **__):
        raise AssertionError("a gradient of the weight was made")

    monkeypatch.setattr(chunks, "_accumulate", unexpected)
    (found,) = torch.autograd.grad(op(hidden, weight.detach(), labels), hidden)
    assert relative_distance(found, expected[0]) <= 1e-5


def test_a_second_backward_pass_gives_the_same_gradients(op):
    hidden, weight, labels = leaves()
    loss = op(hidden, weight, labels) * 3
    first, second = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels) * 3, (hidden, weight))
    for one, other, right in zip(first, second, expected, strict=True):
        assert torch.equal(one, other)
        assert relative_distance(one, right) <= 1e-5


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


# ---------------------------------------------------------------- rows


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


@pytest.mark.parametrize("way", WAYS)
def test_an_ignored_label_is_never_the_likeliest(way):
    logits, labels = torch.zeros(2, 5, device=DEVICE), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    assert not WAYS[way].losses(logits, labels, Settings(ignore_index=0), False).correct.any()
