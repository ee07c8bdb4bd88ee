"""What comes from a loader is made of what was read, with workers and without."""

from functools import partial

import pytest
import torch

from litespark.data.batch import batch_from_sequences
from litespark.data.stream import loader
from litespark.data.stream.loader import TokenLoader

MAKE = partial(batch_from_sequences, eos_id=0, document_mask=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_were_read(workers):
    # more of them than a worker has under way at once, so that memory that is used again would be seen
    read = [(torch.full((2, 4), number), 1, f"domain {number}") for number in range(1, 40)]
    kept = list(TokenLoader(read, MAKE, workers=workers))
    assert [batch.tokens.unique().tolist() for batch in kept] == [[number] for number in range(1, 40)]
    assert [batch.domain for batch in kept] == [domain for _, _, domain in read]
    assert {batch.token_count for batch in kept} == {3}, "the second sequence only fills the batch"


def test_a_batch_is_pinned_where_there_is_a_device(monkeypatch):
    # pinning itself needs a GPU: here it is a copy that can be told apart
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    monkeypatch.setattr(loader, "device_count", lambda: 1)
    (batch,) = TokenLoader([(torch.tensor([[1, 2, 0, 3]]), None, None)], MAKE, workers=0)
    assert batch.tokens.tolist() == [[2, 3, 1]]
