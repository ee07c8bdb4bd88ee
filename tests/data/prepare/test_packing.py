"""Sequences that best-fit packing makes of documents."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from litespark.data.prepare import packing
from litespark.data.prepare.packing import BestFitPacker
from tests.properties import given, settings, st

EOS = 0


def document(length: int, first: int = 1) -> np.ndarray:
    """`length` ids that count up from `first`, the last of them EOS."""
    return np.array([*range(first, first + length - 1), EOS], dtype=np.int32)


def packed(documents: list[np.ndarray], seq_len: int) -> np.ndarray:
    packer = BestFitPacker(seq_len, EOS)
    groups = [group for ids in documents for group in packer.add(ids)] + packer.close()
    assert packer.close() == []
    return np.concatenate(groups) if groups else np.empty((0, seq_len + 1), dtype=np.int32)


def pairs(ids: np.ndarray) -> Counter[tuple[int, int]]:
    """(input, label) of every place that is trained on, as `batch_from_sequences` sees them."""
    return Counter((a, b) for a, b in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True) if a != EOS)


@pytest.mark.parametrize(
    ("lengths", "seq_len", "sequences"),
    [
        ([3, 6, 5, 2], 7, [[1, 2, EOS, 1, 2, 3, 4, EOS], [1, 2, 3, 4, 5, EOS, 1, EOS]]),
        # the last would fit beside the five ids as well, and leave one place
        ([5, 6, 2], 7, [[1, 2, 3, 4, EOS, EOS, EOS, EOS], [1, 2, 3, 4, 5, EOS, 1, EOS]]),
        ([3], 4, [[1, 2, EOS, EOS, EOS]]),
        ([10], 4, [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [9, EOS, EOS, EOS, EOS]]),
        # nine ids end with the second piece: no third of a single id
        ([9], 4, [[1, 2, 3, 4, 5], [5, 6, 7, 8, EOS]]),
        ([1], 4, []),
    ],
)
def test_sequences_hold_whole_documents_cut_where_longer_and_are_padded_at_their_ends(lengths, seq_len, sequences):
    found = packed([document(length) for length in lengths], seq_len)
    assert (found.dtype, found.tolist()) == (np.int32, sequences)


@settings(max_examples=150, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=60), seq_len=st.integers(1, 12))
def test_every_id_but_the_first_is_a_label_once_and_only_what_is_longer_than_a_sequence_is_cut(lengths, seq_len):
    # ids tell the documents apart, so that a pair that crosses a border between two would be seen
    documents = [document(length, 1 + 100 * number) for number, length in enumerate(lengths)]
    sequences = packed(documents, seq_len)
    assert sum(map(pairs, sequences), Counter()) == sum(map(pairs, documents), Counter())
    text = ["," + ",".join(map(str, sequence.tolist())) + "," for sequence in sequences]
    for ids in documents:
        if 2 <= ids.size <= seq_len + 1:
            assert sum("," + ",".join(map(str, ids.tolist())) + "," in sequence for sequence in text) == 1
    for sequence in sequences.tolist():
        real = len(sequence)
        while real > 1 and sequence[real - 1] == sequence[real - 2] == EOS:
            real -= 1
        assert (EOS, EOS) not in pairwise(sequence[:real])


def test_few_sequences_more_than_their_tokens_need():
    lengths = np.random.default_rng(0).integers(10, 500, size=4000)
    sequences = packed([document(int(length)) for length in lengths], 511)
    assert len(sequences) <= 1.01 * lengths.sum() / 512


def test_a_bounded_buffer_gives_sequences_before_the_end_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(packing, "BUFFER_TOKENS", 200)
    documents = [document(2 + number % 9, 1 + 100 * number) for number in range(300)]
    packer = BestFitPacker(9, EOS)
    held, groups = 0, []
    for ids in documents:
        held += ids.size
        if ready := packer.add(ids):
            groups += ready
            held = 0
        assert held < 200
    groups += packer.close()
    # as many as the tokens fill, and no more: small groups leave room in their sequences
    assert len(groups) == sum(ids.size for ids in documents) // 200 + 1
    assert sum(map(pairs, np.concatenate(groups)), Counter()) == sum(map(pairs, documents), Counter())


def test_a_group_has_some_sequences_however_long_they_are_and_documents_however_short(monkeypatch):
    monkeypatch.setattr(packing, "BUFFER_TOKENS", 10)
    packer = BestFitPacker(9, EOS)
    ready = [packer.add(document(10)) for _ in range(16)]
    assert ready[:15] == [[]] * 15
    assert ready[15][0].shape == (16, 10)
    monkeypatch.setattr(packing, "_MOST_PIECES", 3)
    assert [len(packer.add(document(2))) for _ in range(6)] == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("ids", [[], [1, 2]])
def test_a_document_without_its_eos_is_refused(ids):
    with pytest.raises(ValueError, match="does not end with EOS=0"):
        BestFitPacker(4, EOS).add(np.array(ids, dtype=np.int32))
