"""Chunks of packed sequences, and names of domain folders."""

from __future__ import annotations

import numpy as np
import pytest

from litespark.data.prepare.chunk_writer import ChunkWriter, domain_folder
from litespark.data.storage import Storage
from litespark.data.stream.token_chunks import TokenChunks
from tests.properties import given, st


@pytest.mark.parametrize(
    "domain, folder",
    [
        ("RedPajamaC4", "RedPajamaC4"),
        ("news & views", "news=20=26=20views"),
        ("../outside", "=2E.=2Foutside"),
        ("", "="),
        ("a=20b", "a=3D20b"),
        ("漢", "=E6=BC=A2"),
    ],
)
def test_a_domain_has_a_folder_that_is_safe(domain, folder):
    assert domain_folder(domain) == folder
    assert len(domain_folder(domain + "漢" * 200)) < 200


@given(st.text() | st.just("x" * 200), st.text() | st.just("x" * 201))
def test_other_domains_have_other_folders(one, other):
    assert (domain_folder(one) == domain_folder(other)) == (one == other)


def test_chunks_are_full_but_for_the_last(tmp_path):
    writer = ChunkWriter(Storage(tmp_path), 7, vocab_size=1000, chunk_tokens=10)
    items = [np.arange(size, dtype=np.uint16) for size in (3, 25, 1, 4)]
    for item in items:
        writer.add(item)
    written = writer.close()
    assert [chunk.record.file for chunk in written] == [f"chunk-7-{number}.bin" for number in range(4)]
    assert [chunk.record.tokens for chunk in written] == [10, 10, 10, 3]
    assert [chunk.items for chunk in written] == [2, 1, 3, 1]
    chunks = TokenChunks(tmp_path, [chunk.record for chunk in written], vocab_size=1000, verify_hashes=True)
    assert chunks.read(0, 33).tolist() == np.concatenate(items).tolist()
