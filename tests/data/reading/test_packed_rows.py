"""Rows that lie packed in chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from litespark.data.reading.packed_rows import PackedRows
from litespark.data.reading.token_chunks import TokenChunks
from tests.data.raw_chunks import write_chunks


def chunks(folder: Path, *parts: list[int]) -> TokenChunks:
    return TokenChunks(folder, write_chunks(folder, *parts), vocab_size=100)


def test_rows_are_read_as_they_were_laid_out_across_chunk_borders(tmp_path):
    rows = PackedRows(chunks(tmp_path, [1, 2, 3, 4], [5, 6, 7], [8, 9]), 2, 2)
    assert rows.count == 3
    assert rows.read(np.array([2, 0, 1])).tolist() == [[7, 8, 9], [1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("packed_length", [3, None])
def test_another_sequence_length_is_refused(tmp_path, packed_length):
    with pytest.raises(ValueError, match=r"seq_len=2.*=" + str(packed_length) + r".*packing=concat"):
        PackedRows(chunks(tmp_path, [1, 2, 3]), 2, packed_length)


@pytest.mark.parametrize("ids", [[1, 2, 3, 4], []])
def test_chunks_that_hold_no_whole_rows_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="expected whole rows of 3"):
        PackedRows(chunks(tmp_path, ids), 2, 2)
