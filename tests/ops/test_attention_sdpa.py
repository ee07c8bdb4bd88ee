"""Attention through PyTorch's own kernels against the reference: outputs and all gradients."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.ops.attention.sdpa import attention_sdpa, expected_kernel, kernel_taken
from litespark.ops.tolerance import outputs_and_gradients
from tests.ops.assertions import assert_op_matches

DOCUMENTS = torch.tensor([[0] * 5 + [1] * 1 + [2] * 27, [0] * 33], dtype=torch.int32)


def _inputs(queries, keys, heads, num_kv_heads, width=16):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "query": (2, queries, heads, width),
        "key": (2, keys, num_kv_heads, width),
        "value": (2, keys, num_kv_heads, width),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_sdpa_equals_the_reference(packed, num_kv_heads, dtype):
    documents = Documents(DOCUMENTS) if packed else None
    assert_op_matches(
        lambda query, key, value: attention_sdpa(query, key, value, documents),
        lambda query, key, value: attention(query, key, value, documents),
        _inputs(33, 33, 4, num_kv_heads),
        dtype,
    )


@pytest.mark.parametrize("queries", [1, 2, 7])
def test_sdpa_equals_the_reference_behind_cached_keys(queries):
    assert_op_matches(attention_sdpa, attention, _inputs(queries, 12, 4, 2), torch.float32)


@pytest.mark.parametrize("backend", [attention, attention_sdpa])
def test_documents_of_a_row_do_not_see_each_other(backend):
    inputs = _inputs(33, 33, 4, 2)

    def packed(query, key, value):
        return backend(query, key, value, Documents(DOCUMENTS))

    whole = outputs_and_gradients(packed, inputs)
    changed = {name: x.clone() for name, x in inputs.items()}
    for x in changed.values():
        x[0, 5] += 100.0
    moved = outputs_and_gradients(packed, changed)
    for name in whole:
        elsewhere = torch.tensor([position for position in range(33) if position != 5])
        assert torch.equal(whole[name][0, elsewhere], moved[name][0, elsewhere]), name
        assert torch.equal(whole[name][1], moved[name][1]), name
        assert not torch.equal(whole["output 0"][0, 5], moved["output 0"][0, 5])


def test_the_mask_is_made_once_for_all_layers():
    documents = Documents(DOCUMENTS)
    assert documents.visible() is documents.visible()


@pytest.mark.parametrize("packed", [False, True])
def test_the_kernel_that_is_named_is_the_one_that_pytorch_takes(packed):
    inputs, documents = _inputs(33, 33, 4, 2), Documents(DOCUMENTS) if packed else None
    with sdpa_kernel(SDPBackend.MATH):
        assert kernel_taken(**inputs, documents=documents) == "math"
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert kernel_taken(**inputs, documents=documents) == "flash"


def test_the_kernel_is_named_for_the_dtype_that_autocast_computes_in(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda **arguments: asked.append(arguments["query"].dtype) or 0)
    with torch.autocast("cpu", torch.bfloat16):
        kernel_taken(**_inputs(8, 8, 2, 2))
    assert asked == [torch.bfloat16]


@pytest.mark.parametrize(
    ("kind", "capability", "dtype", "width", "expected"),
    [
        ("cuda", (9, 0), torch.bfloat16, 128, "cudnn"),
        ("cuda", (9, 0), torch.float16, 64, "cudnn"),
        ("cuda", (9, 0), torch.float32, 128, None),
        ("cuda", (9, 0), torch.bfloat16, 256, None),
        ("cuda", (8, 0), torch.bfloat16, 128, None),
        ("cpu", (9, 0), torch.bfloat16, 128, None),
    ],
)
def test_cudnn_is_demanded_on_hopper_alone(monkeypatch, kind, capability, dtype, width, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert expected_kernel(torch.device(kind), dtype, width) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("heads", "num_kv_heads"), [(24, 8), (8, 8)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_causal_case_takes_the_kernel_that_is_demanded_of_this_device(heads, num_kv_heads, dtype):
    device = torch.device("cuda")
    expected = expected_kernel(device, dtype, 128)
    if expected is None:
        pytest.skip("no kernel is demanded of this device")
    inputs = {
        name: x.to(device, dtype).requires_grad_()
        for name, x in _inputs(512, 512, heads, num_kv_heads, width=128).items()
    }
    assert kernel_taken(**inputs) == expected
    attention_sdpa(**inputs).sum().backward()
