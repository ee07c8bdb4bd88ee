"""Shifting, document boundaries and host counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from litespark.data.batch import batch_from_sequences
from litespark.data.loss_mask import IGNORE_INDEX
from litespark.data.prepare.packing import BestFitPacker
from tests.properties import given, settings, st

EOS = 0


def test_labels_are_the_next_tokens_and_stop_at_a_document_end():
    batch = batch_from_sequences(torch.tensor([[5, 6, EOS, 7, 8]]), eos_id=EOS, document_mask=True)
    assert batch.tokens.tolist() == [[5, 6, EOS, 7]]
    assert batch.labels.tolist() == [[6, EOS, IGNORE_INDEX, 8]]
    assert batch.documents.tolist() == [[0, 0, 0, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 0]]
    assert (batch.token_count, batch.supervised_count, batch.attention_pairs) == (4, 3, 6 + 1)
    # padded with empty documents
    assert batch.cu_seqlens.tolist() == [0, 3] + [4] * 14
    assert batch.documents.dtype == batch.cu_seqlens.dtype == torch.int32
    assert batch.tokens.dtype == batch.labels.dtype == batch.positions.dtype == torch.int64


def test_padding_at_the_end_of_a_sequence_is_one_document_that_counts_for_nothing():
    sequences = torch.tensor([[5, 6, EOS, EOS, EOS, EOS], [5, EOS, 7, 8, 9, EOS], [5, 6, 7, EOS, 8, EOS]])
    batch = batch_from_sequences(sequences, eos_id=EOS, document_mask=True, padded=True)
    assert batch.labels[0].tolist() == [6, EOS] + [IGNORE_INDEX] * 3
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2], [0, 1, 2, 3, 0]]
    assert batch.cu_seqlens.tolist()[:7] == [0, 3, 5, 7, 10, 14, 15]
    assert (batch.token_count, batch.supervised_count, batch.attention_pairs) == (13, 10, 6 + (3 + 6) + (10 + 1))
    unpadded = batch_from_sequences(sequences, eos_id=EOS, document_mask=True)
    assert (unpadded.token_count, unpadded.attention_pairs) == (15, 28)
    unmasked = batch_from_sequences(sequences, eos_id=EOS, document_mask=False, padded=True, real_sequences=1)
    assert (unmasked.token_count, unmasked.supervised_count, unmasked.attention_pairs) == (3, 2, 6)
    # of a sequence of padding alone the first EOS counts
    batch = batch_from_sequences(torch.tensor([[EOS] * 4, [5, 6, 7, EOS]]), eos_id=EOS, document_mask=True, padded=True)
    assert (batch.token_count, batch.supervised_count, batch.attention_pairs) == (1 + 3, 3, 1 + 6)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=12), seq_len=st.integers(1, 9))
def test_packed_sequences_train_on_each_id_but_the_first_of_a_document(lengths, seq_len):
    packer = BestFitPacker(seq_len, EOS)
    documents = [np.array([*range(1, length), EOS], dtype=np.int64) for length in lengths]
    sequences = np.concatenate([group for ids in documents for group in packer.add(ids)] + packer.close())
    batch = batch_from_sequences(torch.from_numpy(sequences), eos_id=EOS, document_mask=True, padded=True)
    supervised = token_count = pairs = 0
    for number, sequence in enumerate(sequences.tolist()):
        while len(sequence) > 2 and sequence[-1] == sequence[-2] == EOS:
            sequence.pop()
        inputs = sequence[:seq_len]
        token_count += len(inputs)
        supervised += sum(token != EOS for token in inputs)
        documents_of_sequence = np.cumsum([0] + [token == EOS for token in inputs])[:-1].tolist()
        pairs += sum(documents_of_sequence[:place].count(its) + 1 for place, its in enumerate(documents_of_sequence))
        assert batch.documents[number, : len(inputs)].tolist() == documents_of_sequence
    assert batch.supervised_count == supervised == sum(lengths) - len(lengths)
    assert batch.supervised_count == int((batch.labels != IGNORE_INDEX).sum())
    assert (batch.token_count, batch.attention_pairs) == (token_count, pairs)


@settings(max_examples=60, deadline=None)
@given(
    sequences=st.integers(1, 6).flatmap(
        lambda length: st.lists(st.lists(st.integers(0, 3), min_size=length + 1, max_size=length + 1), min_size=1)
    ),
    document_mask=st.booleans(),
    data=st.data(),
)
def test_counts_agree_with_counting_one_by_one(sequences, document_mask, data):
    real = data.draw(st.integers(0, len(sequences)))
    batch = batch_from_sequences(torch.tensor(sequences), eos_id=EOS, document_mask=document_mask, real_sequences=real)
    supervised = pairs = 0
    for number, sequence in enumerate(sequences):
        document, position = 0, 0
        inputs = sequence[:-1]
        belongs = []
        for place, token in enumerate(inputs):
            belongs.append(document)
            if document_mask:
                assert batch.documents[number, place] == document
                assert batch.positions[number, place] == position
            if number < real:
                supervised += token != EOS
                pairs += sum(other == document or not document_mask for other in belongs)
            position += 1
            if token == EOS:
                document, position = document + 1, 0
    if not document_mask:
        assert (batch.documents, batch.positions, batch.cu_seqlens) == (None, None, None)
    else:
        cu_seqlens, length = batch.cu_seqlens.tolist(), len(sequences[0]) - 1
        starts = [n * length + m for n in range(len(sequences)) for m in range(length) if batch.positions[n, m] == 0]
        assert cu_seqlens[: len(starts)] == starts
        assert set(cu_seqlens[len(starts) :]) == {len(sequences) * length}
    assert batch.supervised_count == supervised == int((batch.labels != IGNORE_INDEX).sum())
    assert batch.attention_pairs == pairs
    assert batch.token_count == real * (len(sequences[0]) - 1)
    assert all(type(n) is int for n in (batch.token_count, batch.supervised_count, batch.attention_pairs))


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((3,), {}, r"shape \(3,\)"),
        ((3, 1), {}, "two ids or more"),
        ((1, 3), {"document_mask": True}, "need an EOS id"),
        ((1, 3), {"padded": True}, "need an EOS id"),
    ],
)
def test_wrong_sequences_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        batch_from_sequences(
            torch.zeros(shape, dtype=torch.int64), **{"eos_id": None, "document_mask": False, **options}
        )


def test_moving_keeps_the_counts():
    batch = batch_from_sequences(torch.tensor([[5, EOS, 7, 8]]), eos_id=EOS, document_mask=True)
    moved = vars(batch.to("meta"))
    assert {held.device.type for held in moved.values() if isinstance(held, torch.Tensor)} == {"meta"}
    assert moved["supervised_count"] == batch.supervised_count


def test_the_number_of_boundaries_seldom_changes():
    def count(documents):
        return len(
            batch_from_sequences(torch.tensor([[EOS] * documents + [5]]), eos_id=EOS, document_mask=True).cu_seqlens
        )

    assert [count(documents) for documents in (1, 14, 15, 16, 31)] == [16, 16, 16, 32, 32]
