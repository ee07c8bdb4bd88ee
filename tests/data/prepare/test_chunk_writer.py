"""Chunks of packed rows, and names of domain folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from litespark.data.manifest import Manifest
from litespark.data.prepare.chunk_writer import ChunkWriter, domain_folder
from litespark.data.prepare.prepare import prepare
from litespark.data.storage import Storage
from litespark.data.stream.token_chunks import TokenChunks
from tests.data.corpus import config, documents
from tests.data.prepare.records import KINDS, write_records
from tests.properties import given, st

LENGTH = 32


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


def test_packed_rows_are_whole_in_their_chunk_and_hold_every_document(tmp_path):
    texts = documents(60, words=12)
    source = write_records(tmp_path / "text", texts, files=3)
    packed = {"packing": "best_fit", "seq_len": LENGTH, "domain_field": "meta.kind", "unit_bytes": 2000}
    settings = config(source, tmp_path / "prepared", **packed)
    folder = prepare(settings, progress=False)
    manifest = Manifest.read(folder)
    assert (manifest.packing, manifest.seq_len) == ("best_fit", LENGTH)
    for split, counts in manifest.splits.items():
        for domain in counts.domains.values():
            assert {chunk.tokens % (LENGTH + 1) for chunk in domain.chunks} == {0}
            assert max(chunk.tokens for chunk in domain.chunks) <= 99  # a chunk of 100 has no room for a fourth row
            chunks = TokenChunks(folder / split / domain.folder, domain.chunks, vocab_size=manifest.vocab_size)
            rows = chunks.read(0, len(chunks)).reshape(-1, LENGTH + 1)
            padding = sum(row.size - np.flatnonzero(row != manifest.eos_id)[-1] - 2 for row in rows if row[-1] == 0)
            # what overlaps where a document is cut is there twice
            assert rows.size - padding >= domain.tokens
    assert sum(counts.documents for counts in manifest.splits.values()) == len(texts)
    assert set(manifest.splits["train"].domains) == set(KINDS)
    assert prepare(replace(settings, seq_len=LENGTH // 2), progress=False) != folder
