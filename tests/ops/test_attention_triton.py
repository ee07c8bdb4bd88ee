"""Attention through our Triton kernels: against the reference, what is never read, and layouts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from litespark.ops.attention.configurations import Configuration, Launch, configured
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.ops.tolerance import outputs_and_gradients, relative_distance
from tests.ops.assertions import assert_op_matches

pytest.importorskip("triton")

from litespark.ops.attention import launchers
from litespark.ops.attention.function import attention_triton
from tests.properties import Phase, given, settings, st

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# of documents: borders within blocks, on them, a single token
LENGTHS = [5, 1, 10, 16, 8]


def _blocks(queries, keys):
    launch = Launch(queries, keys, 4, 1)
    return configured(Configuration(launch, launch, launch))


def _inputs(length, heads, num_kv_heads, width, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = {"query": heads, "key": num_kv_heads, "value": num_kv_heads}
    return {
        name: torch.randn(batch, length, count, width, generator=generator).to(DEVICE) for name, count in counts.items()
    }


def _documents(*sequences):
    index = torch.stack([torch.arange(len(each)).repeat_interleave(torch.tensor(each)) for each in sequences])
    return Documents(index.to(DEVICE, torch.int32))


def _assert_matches(inputs, dtype, *rest):
    assert_op_matches(lambda *qkv: attention_triton(*qkv, *rest), lambda *qkv: attention(*qkv, *rest), inputs, dtype)


@pytest.mark.parametrize(
    ("length", "heads", "num_kv_heads", "width", "dtype"),
    [
        (37, 2, 2, 16, torch.float32),
        (37, 2, 1, 64, torch.bfloat16),
        (37, 4, 1, 24, torch.float16),
        (18, 1, 1, 96, torch.bfloat16),
        (18, 1, 1, 256, torch.bfloat16),
        (18, 1, 1, 7, torch.bfloat16),
    ],
)
def test_it_equals_the_reference(length, heads, num_kv_heads, width, dtype):
    _assert_matches(_inputs(length, heads, num_kv_heads, width), dtype)


@pytest.mark.parametrize(
    ("queries", "keys", "lengths", "window"),
    [
        (16, 16, None, 6),
        (16, 16, LENGTHS, None),
        (16, 32, LENGTHS, 6),
        (32, 16, LENGTHS, 6),
        # what begins within a block before the diagonal
        (16, 16, [48], 20),
        (16, 16, [5, 43], None),
    ],
)
def test_documents_and_windows_equal_the_reference_whatever_the_blocks(queries, keys, lengths, window):
    inputs = _inputs(sum(lengths or LENGTHS), 2, 1, 16)
    with _blocks(queries, keys):
        _assert_matches(inputs, torch.float32, None if lengths is None else _documents(lengths), window)


@pytest.mark.parametrize(
    ("scale", "softcap", "lengths", "window", "dtype"),
    [
        (0.9, None, LENGTHS, None, torch.float32),
        (0.1, None, None, 6, torch.bfloat16),
        (0.9, 3.0, LENGTHS, 6, torch.float32),
        (None, 50.0, None, None, torch.float32),
        (0.9, 3.0, LENGTHS, None, torch.bfloat16),
        (None, 2.0, None, 6, torch.float16),
    ],
)
def test_scaled_and_capped_scores_equal_the_reference(scale, softcap, lengths, window, dtype):
    documents = None if lengths is None else _documents(lengths)
    with _blocks(16, 16):
        _assert_matches(_inputs(sum(LENGTHS), 2, 1, 16), dtype, documents, window, scale, softcap)


def test_scores_beyond_what_an_exponential_holds_stay_at_the_cap():
    inputs = _inputs(20, 2, 1, 16)
    found = outputs_and_gradients(lambda *qkv: attention_triton(*qkv, scale=1e4, softcap=2.0), inputs)
    assert relative_distance(found["output 0"], attention(**inputs, scale=1e4, softcap=2.0)) < 1e-5
    # of the scores next to nothing is left, from which no relative distance can be taken
    assert all(bool(x.isfinite().all()) for x in found.values())


@settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_it_equals_the_reference_at_drawn_shapes(data):
    draw = data.draw
    sequences = [draw(st.lists(st.integers(2, 20), min_size=1, max_size=4))]
    length = sum(sequences[0])
    sequences.append([length - 1, 1])  # sequences of a batch have documents of their own
    num_kv_heads, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))
    inputs = _inputs(length, num_kv_heads * group, num_kv_heads, draw(st.sampled_from([16, 20, 48])), 2, seed=length)
    documents = _documents(*sequences) if draw(st.booleans()) else None
    _assert_matches(inputs, torch.float32, documents, draw(st.none() | st.integers(2, length + 1)))


# ---------------------------------------------------------------- what is never read

BLOCK, POISONED_LENGTH = 16, 64


def _clean_and_poisoned(poisoned, names, block, documents, window):
    """Outputs and gradients without and with NaN in rows `poisoned` of the inputs `names`."""

    def run(query, key, value):
        return attention_triton(query, key, value, documents, window)

    inputs = _inputs(POISONED_LENGTH, 1, 1, 16)
    changed = {name: x.clone() for name, x in inputs.items()}
    for name in names:
        changed[name][:, poisoned] = torch.nan
    with _blocks(block, block):
        return outputs_and_gradients(run, inputs), outputs_and_gradients(run, changed)


_ALL = ("query", "key", "value")
_QUERY_SIDE, _KEY_SIDE = ("output 0", "gradient of query"), ("gradient of key", "gradient of value")
_HALVES = [32, 32]
# documents, window, where NaN is, in which inputs, what must not change where: query side, key side
_UNSEEN = {
    "an earlier document": (_HALVES, None, slice(0, 32), _ALL, slice(32, 64), slice(32, 64)),
    "a later document": (_HALVES, None, slice(32, 64), _ALL, slice(0, 32), slice(0, 32)),
    "later tokens": (None, None, slice(48, 64), _ALL, slice(0, 48), slice(0, 0)),
    "earlier queries": (None, None, slice(0, 48), ("query",), slice(48, 64), slice(48, 64)),
    "tokens before the window": (None, 8, slice(0, 16), _ALL, slice(32, 64), slice(32, 64)),
    "tokens after the window": (None, 8, slice(48, 64), _ALL, slice(0, 48), slice(0, 32)),
    "both": ([16, 48], 8, slice(0, 16), _ALL, slice(16, 64), slice(16, 64)),
}


@pytest.mark.parametrize("case", _UNSEEN.values(), ids=_UNSEEN.keys())
def test_blocks_that_are_not_visible_are_not_read(case):
    lengths, window, poisoned, names, queries, keys = case
    documents = _documents(lengths) if lengths else None
    clean, changed = _clean_and_poisoned(poisoned, names, BLOCK, documents, window)
    for side, rows in ((_QUERY_SIDE, queries), (_KEY_SIDE, keys)):
        for name in side:
            assert torch.equal(clean[name][:, rows], changed[name][:, rows]), name
    assert changed["output 0"][:, poisoned].isnan().any()


def test_what_is_not_visible_but_in_a_block_that_is_read_would_show():
    _, changed = _clean_and_poisoned(slice(0, 32), _ALL, 64, _documents(_HALVES), None)
    for name in (*_QUERY_SIDE, "gradient of key"):  # that of value multiplies by gradients only, which are not NaN
        assert changed[name][:, 32:].isnan().any(), name


# ---------------------------------------------------------------- layouts


def test_each_tensor_is_read_through_strides_of_its_own():
    inputs = _inputs(20, 2, 2, 20, batch=2)
    gradient = torch.randn(inputs["query"].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def run(*tensors):
        leaves = [x.requires_grad_() for x in tensors[:3]]
        with _blocks(16, 16):
            output = attention_triton(*leaves)
            return output, *torch.autograd.grad(output, leaves, tensors[3])

    plain = [*inputs.values(), gradient]
    # no two have the same strides, and what lies between their values shows
    apart = [
        torch.full((2, 20 + number, x.shape[2] + number, 28 + number), torch.nan, device=DEVICE)
        for number, x in enumerate(plain)
    ]
    views = [whole[:, : x.shape[1], : x.shape[2], :20].copy_(x) for whole, x in zip(apart, plain, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(run(*views), run(*plain), strict=True))


# (B, S, strides of sequences and of positions): sequences far apart; positions too far apart for 32 bits within a
# block, which are copied; positions that pass 32 bits only from one block to another
@pytest.mark.parametrize(
    "batch, length, strides",
    [(3, 2, (2**30 + 16, 64)), (1, 3, (0, 2**30 + 16)), (1, 130, (0, 2**24 - 16))],
    ids=["sequences", "positions", "blocks"],
)
def test_offsets_beyond_31_bits(batch, length, strides):
    memory = torch.empty(2**31 + 2**25, dtype=torch.bfloat16, device=DEVICE)
    inputs = {name: x.bfloat16() for name, x in _inputs(length, 1, 1, 16, batch).items()}
    far = []
    for number, x in enumerate(inputs.values()):
        view = memory.as_strided(x.shape, (*strides, 16, 1), 16 * number)
        far.append(view.copy_(x))
    assert far[0].stride(0) * (batch - 1) + far[0].stride(1) * (length - 1) >= 2**31
    window = 0 if batch > 1 else 2
    output, lse = launchers.forward(*inputs.values(), None, None, window, 0)
    grad_output = torch.ones_like(output)
    expected = launchers.backward(grad_output, *inputs.values(), output, lse, None, None, window, 0)
    far_output, far_lse = launchers.forward(*far, None, None, window, 0)
    assert torch.equal(far_output, output)
    found = launchers.backward(grad_output, *far, far_output, far_lse, None, None, window, 0)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


# ---------------------------------------------------------------- as an op of PyTorch


def test_floating_point_operations_are_counted_as_pytorch_counts_its_own():
    leaves = [x.to("meta").requires_grad_() for x in _inputs(5, 4, 2, 16).values()]
    with FlopCounterMode(display=False) as counter:
        attention_triton(*leaves).sum().backward()
    product = 2 * 4 * 5 * 5 * 16
    assert counter.get_total_flops() == 2 * product + 5 * product
