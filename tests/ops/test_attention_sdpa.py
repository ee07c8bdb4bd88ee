"""Attention through PyTorch's own kernels against the reference: outputs and all gradients."""

import pytest
import torch

from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.ops.attention.sdpa import attention_sdpa
from litespark.ops.tolerance import outputs_and_gradients
from tests.ops.assertions import assert_op_matches

DOCUMENTS = torch.tensor([[0] * 5 + [1] * 1 + [2] * 27, [0] * 33], dtype=torch.int32)


def _inputs(queries, keys, heads, kv_heads, width=16):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "query": (2, queries, heads, width),
        "key": (2, keys, kv_heads, width),
        "value": (2, keys, kv_heads, width),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_sdpa_equals_the_reference(packed, kv_heads, dtype):
    documents = Documents(DOCUMENTS) if packed else None
    assert_op_matches(
        lambda query, key, value: attention_sdpa(query, key, value, documents),
        lambda query, key, value: attention(query, key, value, documents),
        _inputs(33, 33, 4, kv_heads),
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
