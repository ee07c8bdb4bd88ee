"""What arrives from a loader worker is what was sent: every tensor, count and domain."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from litespark.data.batch import batch_from_sequences
from litespark.data.stream.loader import TokenLoader, pack, unpack


@pytest.mark.parametrize("document_mask", [True, False])
@pytest.mark.parametrize(("sequences", "length"), [(1, 1), (3, 7), (4, 64)])
def test_a_batch_arrives_as_it_was_sent(sequences, length, document_mask):
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (sequences, length + 1)))
    sent = replace(batch_from_sequences(ids, eos_id=0, document_mask=document_mask), domain="web")
    packed = pack(sent)
    assert packed.bytes.dtype == torch.uint8
    found = unpack(packed)
    for name, before in vars(sent).items():
        after = getattr(found, name)
        if isinstance(before, torch.Tensor):
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
            assert torch.equal(after, before)
            assert after.untyped_storage().data_ptr() == packed.bytes.untyped_storage().data_ptr()
        else:
            assert after == before


def test_all_of_a_batch_is_pinned_at_once(monkeypatch):
    # pinning itself needs a GPU: here it is a copy that can be told apart
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    sent = batch_from_sequences(torch.tensor([[1, 2, 0, 3]]), eos_id=0, document_mask=True)
    packed = pack(sent)
    pinned = packed.pin_memory()
    assert pinned.bytes.data_ptr() != packed.bytes.data_ptr()
    assert torch.equal(unpack(pinned).tokens, sent.tokens)
    assert unpack(pinned).cu_seqlens.untyped_storage().data_ptr() == pinned.bytes.data_ptr()


def test_batches_that_are_kept_stay_as_they_arrived():
    # more of them than a worker has under way at once, so that memory that is used again would be seen
    sent = [batch_from_sequences(torch.full((1, 4), number), eos_id=0, document_mask=True) for number in range(1, 40)]
    kept = list(TokenLoader(sent, workers=2))
    assert [batch.tokens.unique().tolist() for batch in kept] == [[number] for number in range(1, 40)]
