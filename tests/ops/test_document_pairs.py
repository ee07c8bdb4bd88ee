"""Pairs of attention within documents: against counting them one by one, and what lengths are drawn."""

from types import SimpleNamespace

import numpy as np
import pytest

from litespark.ops.attention.document_pairs import (
    cut,
    lengths_in,
    lengths_of,
    pairs_computed,
    pairs_of_documents,
    pairs_seen,
)
from litespark.ops.shapes import StepShapes
from litespark.reports import document_pairs
from litespark.reports.document_pairs import RATES, table, within_documents

LENGTHS = np.array([1, 6, 16, 9, 3, 40, 21])
SEQ_LEN = 24


def seen_one_by_one(first):
    """(N, S, S) bool: whether the query (second) sees the key (last)."""
    places = np.arange(first.shape[1])
    return (places <= places[:, None]) & (places >= first[..., None])


def test_documents_are_cut_where_sequences_end():
    first = cut(LENGTHS, SEQ_LEN)
    assert first.tolist()[0] == [0, *[1] * 6, *[7] * 16, 23]
    assert first.tolist()[1] == [*[0] * 8, *[8] * 3, *[11] * 13]  # the rest of 9 tokens, 3, and the first 13 of 40
    assert len(first) == LENGTHS.sum() // SEQ_LEN


@pytest.mark.parametrize(("queries", "keys"), [(4, 8), (8, 4), (8, 8), (16, 32)])
def test_pairs_are_those_of_every_block_in_which_one_is_seen(queries, keys):
    first = cut(LENGTHS, SEQ_LEN)
    seen = seen_one_by_one(first)
    assert pairs_seen(first) == seen.sum()
    padded = np.pad(seen, ((0, 0), (0, -SEQ_LEN % queries), (0, -SEQ_LEN % keys)))
    blocks = padded.reshape(len(first), padded.shape[1] // queries, queries, padded.shape[2] // keys, keys)
    assert pairs_computed(first, queries, keys) == queries * keys * blocks.any(axis=(2, 4)).sum()


def test_documents_end_to_end_are_tiled_one_by_one():
    alone = sum(pairs_computed(cut(np.array([size]), size), 4, 8) for size in (1, 6, 16, 1, 8, 3, 13))
    assert pairs_of_documents(cut(LENGTHS[:-1], SEQ_LEN)[:2], 4, 8) == alone


def test_lengths_have_the_mean_and_the_histogram_that_were_asked_for():
    lengths = lengths_of(1000, 1.0, 4_000_000)
    assert lengths.mean() == pytest.approx(1000, rel=0.05)
    assert lengths.sum() >= 4_000_000 > lengths[:-1].sum()
    drawn = lengths_in([0, 0, 0, 3, 1], 50_000)
    assert set(np.log2(drawn).astype(int)) == {3, 4}
    assert (drawn < 16).mean() == pytest.approx(0.75, abs=0.03)
    assert drawn.sum() >= 50_000


def test_the_fewer_pairs_are_seen_the_less_documents_are_estimated_to_take():
    shapes = StepShapes(4, 512, 64, 4, 2, 128, 64, 32, documents=True)
    short, long = (table(lengths_of(mean, 1.0, 100 * 512), shapes, 2, "a test").rows for mean in (60, 600))
    assert [row[1] for row in short] == [*RATES]
    for less, more in zip(short[1:], long[1:], strict=True):
        assert less[2] < more[2] < 1
        assert less[2] < less[3]
        assert less[-1] < more[-1]
    # 2 products of 2 * Dh forward and 5 backward, of 4 heads in 2 layers and 4 sequences
    flops = 2 * 128 * 4 * 2 * 4 * 512 * 513 / 2
    assert short[0][-1] == pytest.approx(1e3 * flops * (2 / 550e12 + 5 / 450e12))


def test_lengths_are_stated_or_those_of_a_prepared_folder(tmp_path, monkeypatch):
    shapes = StepShapes(4, 512, 64, 4, 2, 128, 64, 32, documents=True)
    monkeypatch.setattr(document_pairs, "_SEQUENCES", 50)
    (_, *stated) = within_documents("60,1.0", shapes, 2).rows
    assert stated[0][2] < 0.3
    with pytest.raises(ValueError, match="found no manifest"):
        within_documents(str(tmp_path), shapes, 2)
    domain = SimpleNamespace(lengths=[0] * 9 + [1])
    prepared = SimpleNamespace(domains_of=lambda split: {"one": domain, "another": domain})
    monkeypatch.setattr(document_pairs, "PreparedData", SimpleNamespace(read=lambda folder: prepared))
    (_, *long) = within_documents("a folder", shapes, 2).rows
    assert long[0][2] > 0.5
    empty = SimpleNamespace(domains_of=lambda split: {})
    monkeypatch.setattr(document_pairs, "PreparedData", SimpleNamespace(read=lambda folder: empty))
    with pytest.raises(ValueError, match="lengths were not counted, expected one that"):
        within_documents("a folder", shapes, 2)
