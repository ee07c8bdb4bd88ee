"""Faults of LitData and fsspec for which we have code of our own; a test that fails here names the code that can go."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import fsspec
import litdata
import numpy as np
import pytest
from fsspec.implementations.cached import CachingFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from litdata.streaming import writer as litdata_writer

from litespark.data.prepare.chunk_writer import ChunkWriter, index_content
from litespark.data.storage import Storage

WRITER = "LitData is mended: compare `data/prepare/chunk_writer.py` with its writer"
READER = "LitData is mended: compare `data/stream` with its StreamingDataset"
BLOCK, CHUNK, CHUNKS = 10, 45, 6
SIZES = {"vocab_size": 300, "chunk_tokens": CHUNK}


class Waiting(Exception):
    """Instead of waiting on and on."""


def written(folder: Path) -> litdata_writer.BinaryWriter:
    """LitData's writer with one chunk, as the process of one rank has it."""
    writer = litdata_writer.BinaryWriter(str(folder), chunk_bytes=1000, item_loader=litdata.TokensLoader())
    writer.add_item(0, np.arange(30, dtype=np.uint16))
    writer.done()
    return writer


def test_litdatas_writer_waits_for_an_index_of_every_rank(tmp_path, monkeypatch):
    def wait(seconds: float) -> None:
        raise Waiting

    monkeypatch.setattr(litdata_writer, "sleep", wait)
    waits = False
    try:
        written(tmp_path).merge(num_workers=2)
    except Waiting:
        waits = True
    assert waits, WRITER


def test_litdatas_writer_stamps_the_time_and_does_not_fsync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(litdata_writer, "time", lambda: 123.0)
    written(tmp_path).merge()
    assert json.loads((tmp_path / "index.json").read_text())["updated_at"] == "123.0", WRITER
    assert synced == [], WRITER


@pytest.fixture
def chunks(tmp_path) -> Path:
    """Chunks of ours of which none holds a whole number of blocks; each id is there once."""
    writer = ChunkWriter(Storage(tmp_path), 0, **SIZES)
    writer.add(np.arange(CHUNKS * CHUNK, dtype=np.uint16))
    (tmp_path / "index.json").write_bytes(index_content(writer.close(), **SIZES))
    return tmp_path


def loader(folder: Path, *, workers: int = 0, shuffle: bool = False) -> litdata.StreamingDataLoader:
    dataset = litdata.StreamingDataset(
        str(folder), item_loader=litdata.TokensLoader(block_size=BLOCK), shuffle=shuffle, seed=1
    )
    return litdata.StreamingDataLoader(dataset, batch_size=2, num_workers=workers)


def first_ids(batches) -> list[int]:
    """The first id of every block."""
    return [int(block[0]) for batch in batches for block in batch]


def test_litdatas_reader_drops_the_end_of_every_chunk_and_serves_flipped_bytes(chunks):
    file = chunks / "chunk-0-0.bin"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(np.uint16(3).tobytes() + np.uint16(4).tobytes(), b"\x2a\x00\x2b\x00"))
    read = [number for batch in loader(chunks) for number in batch.flatten().tolist()]
    assert len(read) == CHUNKS * (CHUNK // BLOCK) * BLOCK, READER
    assert read[:6] == [0, 1, 2, 42, 43, 5], READER


def test_litdatas_order_depends_on_the_number_of_workers(chunks):
    orders = [first_ids(loader(chunks, workers=workers)) for workers in (0, 2)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1], READER


class Lost(MemoryFileSystem):
    """Files behind a connection that is lost after their first ten bytes."""

    protocol = "lost"

    def info(self, path: str, **_: object) -> dict[str, object]:
        raise ConnectionError("lost")

    def isdir(self, path: str) -> bool:
        return False

    def _open(self, path: str, mode: str = "rb", **_: object) -> object:
        parts = iter([b"ten bytes."])

        class File:
            size = 20

            def __enter__(self):
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def read(self, size: int) -> bytes:
                try:
                    return next(parts)
                except StopIteration:
                    raise ConnectionError("lost") from None

        return File()


def test_fsspec_takes_a_lost_connection_for_a_file_that_is_not_there():
    assert not Lost().isfile("/a"), "fsspec is mended: `Storage.exists` can ask it"


def test_fsspec_leaves_part_of_a_file_under_its_final_name(tmp_path):
    with pytest.raises(ConnectionError):
        Lost().get_file("/a", str(tmp_path / "a"))
    assert (tmp_path / "a").exists(), "fsspec is mended: `Storage.fetch` needs no partial file"


def test_the_caches_of_fsspec_have_no_limit_and_serve_what_was_cut_short(tmp_path):
    names = " ".join(inspect.signature(CachingFileSystem).parameters)
    assert not any(word in names for word in ("max", "limit", "bytes", "size")), "compare `stream/cache.py` with it"
    fsspec.filesystem("memory").pipe_file("/faults/a", b"whole")
    cache = fsspec.filesystem("simplecache", target_protocol="memory", cache_storage=str(tmp_path))
    assert cache.cat_file("/faults/a") == b"whole"
    (cached,) = tmp_path.iterdir()
    cached.write_bytes(b"who")
    assert cache.cat_file("/faults/a") == b"who", "fsspec checks what it cached: compare `stream/cache.py` with it"
