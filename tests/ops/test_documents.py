"""Where documents lie in packed sequences: each form that is derived from their numbers."""

from dataclasses import replace

import pytest
import torch

from litespark.data.batch import batch_from_sequences
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.tasks.pretrain import Pretrain
from tests.models.small import small_model

# the number 1 comes back and opens another document; the second sequence goes on with the number the first ended with
INDEX = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 2, 3]], dtype=torch.int32)


def test_each_form_follows_from_the_ends_of_documents_and_sequences():
    documents = Documents(INDEX)
    assert documents.cu_seqlens().tolist() == [0, 2, 3, 6, 10, 11, 12]
    assert documents.cu_seqlens().dtype == torch.int32
    assert documents.first_keys().tolist() == [[0, 0, 2, 3, 3, 3], [0, 0, 0, 0, 4, 5]]
    assert documents.last_queries().tolist() == [[1, 1, 2, 5, 5, 5], [3, 3, 3, 3, 4, 5]]


def test_boundaries_of_a_batch_are_those_that_its_documents_have():
    sequences = torch.randint(0, 4, (3, 12), generator=torch.Generator().manual_seed(0))
    batch = batch_from_sequences(sequences, eos_id=0, document_mask=True)
    counted = Documents(batch.documents).cu_seqlens()
    assert torch.equal(batch.cu_seqlens[: len(counted)], counted)


@pytest.mark.parametrize(
    "given", [torch.zeros(2, 3, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.arange(3)]
)
def test_boundaries_of_another_form_are_refused(given):
    with pytest.raises(ValueError, match=r"cu_seqlens of documents are .*; expected \(N\+1,\) int32"):
        Documents(INDEX, given)


def test_compiled_code_does_not_count_boundaries():
    def count(index):
        return Documents(index).cu_seqlens()

    with pytest.raises(Exception, match="needs `cu_seqlens` on the host"):
        torch.compile(count, backend="eager", fullgraph=True)(INDEX)


def test_a_training_step_hands_the_boundaries_of_its_batch_to_every_layer():
    sequences = torch.randint(0, 6, (2, 17), generator=torch.Generator().manual_seed(0))
    batch = batch_from_sequences(sequences, eos_id=0, document_mask=True)
    model, seen = small_model(), []

    def attend(query, key, value, documents):
        seen.append(documents.cu_seqlens())
        return attention(query, key, value, documents)

    for block in model.blocks:
        block.attention.ops = replace(block.attention.ops, attention=attend)
    Pretrain().loss(model, batch)
    Pretrain().token_losses(model, batch)
    assert len(seen) == 2 * len(model.blocks)
    assert all(cu_seqlens is batch.cu_seqlens for cu_seqlens in seen)
