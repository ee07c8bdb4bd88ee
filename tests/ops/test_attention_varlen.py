"""Attention over documents laid end to end, against the reference.

Without a GPU the kernels of PyTorch are replaced by plain arithmetic of the same signature: what they are asked for is
tested then, and how their answer is used. On a GPU the same tests run the kernels.
"""

import inspect
import math

import pytest
import torch

from litespark.ops.attention import varlen
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.ops.attention.varlen import attention_varlen, why_not
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import outputs_and_gradients
from tests.ops.assertions import assert_op_matches

HAS_GPU = torch.cuda.is_available()
REAL = varlen.varlen_attn
ROWS, LENGTH = 2, 33
INDEX = torch.tensor([[0] * 5 + [1] * 1 + [2] * 27, [0] * 33], dtype=torch.int32)
# as a batch gives them: with empty documents at the end
BOUNDARIES = torch.tensor([0, 5, 6, 33, 66, 66, 66, 66], dtype=torch.int32)


def plain(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), **options):
    """What `varlen_attn` promises, document by document; refuses what its kernels refuse."""
    inspect.signature(REAL).bind(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size, **options
    )
    assert {x.dtype for x in (query, key, value)} <= {torch.bfloat16, torch.float16}
    assert {x.stride(-1) for x in (query, key, value)} == {1}
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    group = query.shape[1] // key.shape[1]
    if "enable_gqa" in inspect.signature(REAL).parameters:
        assert options.get("enable_gqa", False) == (group > 1)
    outputs = []
    left, right = window_size
    assert right == 0
    for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        assert end - start <= max_q
        q, k, v = (x[start:end].float().transpose(0, 1) for x in (query, key, value))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        hidden = (distance < 0) | ((distance > left) if left >= 0 else False)
        scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(hidden, -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1).to(value.dtype))
    return torch.cat(outputs)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if HAS_GPU:
        return torch.device("cuda")
    monkeypatch.setattr(varlen, "varlen_attn", plain)
    return torch.device("cpu")


def draw(device, heads=4, num_kv_heads=2, width=16, queries=LENGTH):
    generator = torch.Generator().manual_seed(0)
    shapes = {"query": (queries, heads), "key": (LENGTH, num_kv_heads), "value": (LENGTH, num_kv_heads)}
    return {
        name: torch.randn(ROWS, length, count, width, generator=generator).to(device)
        for name, (length, count) in shapes.items()
    }


def packed(device, given):
    return Documents(INDEX.to(device), BOUNDARIES.to(device) if given else None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("documents", ["none", "given", "counted"])
@pytest.mark.parametrize("window", [None, 1, 7, 100])
def test_it_equals_the_reference(device, documents, num_kv_heads, window, dtype):
    found = None if documents == "none" else packed(device, documents == "given")
    assert_op_matches(
        lambda query, key, value: attention_varlen(query, key, value, found, window),
        lambda query, key, value: attention(query, key, value, found, window),
        draw(device, num_kv_heads=num_kv_heads),
        dtype,
    )


@pytest.mark.parametrize("width", [64, 96, 128, 256])
def test_head_widths(device, width):
    found = packed(device, True)
    assert_op_matches(
        lambda query, key, value: attention_varlen(query, key, value, found),
        lambda query, key, value: attention(query, key, value, found),
        draw(device, width=width),
        torch.bfloat16,
    )


def test_documents_of_a_row_do_not_see_each_other(device):
    found = packed(device, True)
    inputs = {name: x.bfloat16() for name, x in draw(device).items()}
    changed = {name: x.clone() for name, x in inputs.items()}
    for x in changed.values():
        x[0, 5] += 100.0
    whole, moved = (
        outputs_and_gradients(lambda query, key, value: attention_varlen(query, key, value, found), each)
        for each in (inputs, changed)
    )
    others = torch.arange(LENGTH) != 5
    for name in whole:
        assert torch.equal(whole[name][0, others], moved[name][0, others]), name
        assert torch.equal(whole[name][1], moved[name][1]), name
    assert not torch.equal(whole["output 0"][0, 5], moved["output 0"][0, 5])


def test_heads_cut_from_one_matrix_and_transposed_ones_are_taken(device):
    qkv = torch.randn(ROWS, LENGTH, 8, 16, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = dict(zip(("query", "key", "value"), qkv.split([4, 2, 2], dim=2), strict=True))

    def transposed(query, key, value):
        return attention_varlen(*(x.transpose(2, 3).contiguous().transpose(2, 3) for x in (query, key, value)))

    assert_op_matches(attention_varlen, attention, inputs, torch.bfloat16)
    assert_op_matches(transposed, attention, inputs, torch.bfloat16)


def test_autocast_decides_the_dtype(device):
    inputs = draw(device)
    with torch.autocast(device.type, torch.bfloat16):
        assert attention_varlen(**inputs).dtype == torch.bfloat16


def test_another_dtype_is_refused(device):
    with pytest.raises(ValueError, match=r"attention=varlen: got torch\.float32, expected bf16 or fp16"):
        attention_varlen(**draw(device))


def test_queries_behind_cached_keys_equal_the_reference(device):
    assert_op_matches(attention_varlen, attention, draw(device, queries=3), torch.bfloat16)


@pytest.mark.skipif(REAL is None, reason="this release has no torch.nn.attention.varlen")
def test_sizes_and_graphs_pass_through_without_a_device():
    inputs = {name: x.bfloat16().requires_grad_() for name, x in draw(torch.device("meta")).items()}

    def step(query, key, value, index, cu_seqlens):
        return attention_varlen(query, key, value, Documents(index, cu_seqlens), 7)

    rest = (INDEX.to("meta"), BOUNDARIES.to("meta"))
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for function in (step, compiled):
        output = function(*inputs.values(), *rest)
        assert output.shape == (ROWS, LENGTH, 4, 16)
        gradients = torch.autograd.grad(output.sum(), list(inputs.values()))
        assert [x.shape for x in gradients] == [x.shape for x in inputs.values()]


def shapes(width):
    return StepShapes(2, 33, 64, 4, 2, width, 96, 300, documents=True)


@pytest.mark.parametrize(
    ("kind", "dtype", "width", "capability", "reason"),
    [
        ("cpu", torch.bfloat16, 64, (9, 0), "CUDA devices only, not for cpu"),
        ("cuda", torch.float32, 64, (9, 0), "bf16 and fp16, not torch.float32"),
        ("cuda", torch.bfloat16, 64, (7, 5), "compute capability 8.0"),
        ("cuda", torch.bfloat16, 44, (9, 0), "multiples of 8 up to 256, not 44"),
        ("cuda", torch.bfloat16, 264, (9, 0), "multiples of 8 up to 256, not 264"),
        ("cuda", torch.bfloat16, 224, (8, 9), "no backward pass for head width 224"),
        ("cuda", torch.bfloat16, 224, (9, 0), None),
        ("cuda", torch.bfloat16, 256, (8, 9), None),
        ("cuda", torch.float16, 128, (8, 0), None),
    ],
)
def test_it_says_why_it_cannot_run(monkeypatch, kind, dtype, width, capability, reason):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = why_not(torch.device(kind), dtype, shapes(width))
    assert (found is None) if reason is None else (reason in found)


def test_a_release_without_it_is_named(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", None)
    assert "has no torch.nn.attention.varlen" in why_not(torch.device("cuda"), torch.bfloat16)
    with pytest.raises(ValueError, match=r"has no torch.nn.attention.varlen; choose sdpa"):
        attention_varlen(**draw(torch.device("cpu")))
