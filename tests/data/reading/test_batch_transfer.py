"""What arrives from a loader worker is what was sent: every tensor, count and domain."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from litespark.data.batch import batch_from_rows
from litespark.data.reading.batch_transfer import pack, unpack


@pytest.mark.parametrize("document_mask", [True, False])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 7), (4, 64)])
def test_a_batch_arrives_as_it_was_sent(rows, length, document_mask):
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (rows, length + 1)))
    sent = replace(batch_from_rows(ids, eos_id=0, document_mask=document_mask), domain="web")
    packed = pack(sent)
    assert packed.bytes.dtype == torch.uint8
    found = unpack(packed)
    for field in fields(sent):
        before, after = getattr(sent, field.name), getattr(found, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.dtype, after.shape) == (before.dtype, before.shape)
            assert torch.equal(after, before)
            assert after.untyped_storage().data_ptr() == packed.bytes.untyped_storage().data_ptr()
        else:
            assert after == before
