"""The cache of remote data, through the real protocol: what it holds, deletes, mends and refuses."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from litespark.data.chunks import ChunkRecord
from litespark.data.manifest import FILE, Manifest
from litespark.data.storage import Storage, StorageError
from litespark.data.stream.cache import ChunkCache
from litespark.data.stream.token_chunks import TokenChunks
from litespark.data.tokenizer import Tokenizer
from tests.data.corpus import documents
from tests.data.s3_server import fill, s3_client

CHUNK_BYTES = 2000
PARTS = [[number * 100 + place % 100 for place in range(CHUNK_BYTES // 2)] for number in range(5)]
STREAM = [number for part in PARTS for number in part]


@pytest.fixture
def remote(s3_server: str, s3_bucket: str, tmp_path: Path) -> tuple[str, list[ChunkRecord]]:
    """Address of a folder of five chunks of 2,000 bytes, and their records."""
    (tmp_path / "source").mkdir()
    records = []
    for number, part in enumerate(PARTS):
        content, file = np.array(part, dtype=np.uint16).tobytes(), f"chunk-0-{number}.bin"
        (tmp_path / "source" / file).write_bytes(content)
        records.append(ChunkRecord(file, len(content), hashlib.sha256(content).hexdigest(), len(part)))
    fill(s3_server, f"{s3_bucket}/train/text", tmp_path / "source")
    return f"{s3_bucket}/train/text", records


def cache(tmp_path: Path, *, chunks: int = 10) -> ChunkCache:
    return ChunkCache(tmp_path / "cache", chunks * CHUNK_BYTES)


def chunks_of(remote: tuple[str, list[ChunkRecord]], cache: ChunkCache, **options: bool) -> TokenChunks:
    return TokenChunks(remote[0], remote[1], vocab_size=500, cache=cache, **options)


def cached(folder: Path, records: list[ChunkRecord]) -> list[int]:
    """Which chunks the cache holds."""
    names = {path.name for path in (folder / "cache/chunks").iterdir()}
    assert names <= {f"{record.sha256}.bin" for record in records}, "something else was left there"
    return [number for number, record in enumerate(records) if f"{record.sha256}.bin" in names]


def read_from(chunks: TokenChunks, *numbers: int) -> None:
    for number in numbers:
        assert chunks.read(number * 1000 + 5, 3).tolist() == PARTS[number][5:8]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Of each chunk that this process fetched: how many the cache held before."""
    held: list[int] = []
    fetch = Storage.fetch

    def noted(self: Storage, name: str, target: Path, *, size: int | None = None) -> None:
        held.append(len(list((tmp_path / "cache/chunks").iterdir())))
        fetch(self, name, target, size=size)

    monkeypatch.setattr(Storage, "fetch", noted)
    return held


def test_a_stream_is_read_cold_then_warm_without_its_source(remote, s3_server, tmp_path, fetched):
    chunks = chunks_of(remote, cache(tmp_path))
    assert cached(tmp_path, remote[1]) == []
    assert chunks.read(0, 5000).tolist() == STREAM
    assert chunks.read(1990, 20).tolist() == STREAM[1990:2010]
    assert len(fetched) == 5
    warm = chunks_of(remote, cache(tmp_path))
    s3_client(s3_server).delete_object(Bucket=remote[0].split("/")[2], Key="train/text/chunk-0-3.bin")
    assert warm.read(0, 5000).tolist() == STREAM
    assert len(fetched) == 5


def test_what_was_used_longest_ago_is_deleted_and_stays_readable_where_it_is_open(remote, tmp_path):
    chunks = chunks_of(remote, cache(tmp_path, chunks=3))
    read_from(chunks, 0, 1, 2)
    opened = chunks._maps[1]
    read_from(chunks, 0, 3)  # 0 is open already: only `touch` tells the cache
    assert cached(tmp_path, remote[1]) == [0, 2, 3]
    assert opened.tolist() == PARTS[1]
    read_from(chunks_of(remote, cache(tmp_path, chunks=3)), 1)


def test_room_is_made_before_a_chunk_comes_and_no_map_keeps_a_deleted_one_on_the_disk(remote, tmp_path, fetched):
    chunks = chunks_of(remote, cache(tmp_path, chunks=2))
    read_from(chunks, 0, 1, 2, 3)
    assert fetched == [0, 1, 1, 1]
    assert set(chunks._maps) == {2, 3}


def test_only_files_of_the_cache_are_deleted(remote, tmp_path):
    read_from(chunks_of(remote, cache(tmp_path, chunks=1)), 0)
    foreign = tmp_path / "cache/chunks/notes.bin"
    foreign.write_bytes(b"x" * 5000)
    os.utime(foreign, (0, 0))
    read_from(chunks_of(remote, cache(tmp_path, chunks=1)), 1)
    assert foreign.exists()
    foreign.unlink()
    assert cached(tmp_path, remote[1]) == [1]


def test_a_cached_chunk_of_another_size_or_hash_is_fetched_again(remote, tmp_path, caplog):
    held = cache(tmp_path)
    read_from(chunks_of(remote, held), 0)
    path = held.path(remote[1][0])
    flipped = bytearray(path.read_bytes())
    for size in (0, CHUNK_BYTES - 1, CHUNK_BYTES + 1):
        path.write_bytes(b"x" * size)
        read_from(chunks_of(remote, held), 0)
        assert f"has {size} bytes; the manifest says {CHUNK_BYTES}; it is fetched again" in caplog.text
    flipped[10] ^= 1
    path.write_bytes(flipped)
    assert chunks_of(remote, held).read(5, 1).tolist() != PARTS[0][5:6]
    read_from(chunks_of(remote, held, verify_hashes=True), 0)


def test_a_chunk_that_is_damaged_where_it_lies_is_refused(remote, s3_server, tmp_path, fetched):
    bucket = remote[0].split("/")[2]
    s3_client(s3_server).put_object(Bucket=bucket, Key="train/text/chunk-0-0.bin", Body=b"x" * CHUNK_BYTES)
    chunks = chunks_of(remote, cache(tmp_path), verify_hashes=True)
    with pytest.raises(ValueError, match=r"chunk-0-0.bin, fetched 4 .* SHA-256 .*damaged at its source: copy it again"):
        chunks.read(0, 1)
    assert len(fetched) == 4
    with pytest.raises(ValueError, match=r"id 30840; expected 0 to 499.*data.verify_hashes=true"):
        chunks_of(remote, cache(tmp_path)).read(0, 1)


def test_a_chunk_that_is_missing_where_it_lies_is_refused_at_the_start(remote, s3_server, tmp_path):
    s3_client(s3_server).delete_object(Bucket=remote[0].split("/")[2], Key="train/text/chunk-0-2.bin")
    with pytest.raises(ValueError, match=r"s3://.*chunk-0-2.bin is missing; the manifest lists it"):
        chunks_of(remote, cache(tmp_path))


def test_threads_that_want_one_chunk_fetch_it_once(remote, tmp_path, fetched):
    held = cache(tmp_path)
    read: list[bytes] = []
    start = threading.Barrier(4)

    def get() -> None:
        start.wait()
        with held.open(remote[0], remote[1][0], verify_hash=True) as file:
            read.append(file.read())

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert read == [np.array(PARTS[0], dtype=np.uint16).tobytes()] * 4
    assert len(fetched) == 1


READER = """
import random, sys
from litespark.data.stream.cache import ChunkCache
from litespark.data.chunks import ChunkRecord
from litespark.data.stream.token_chunks import TokenChunks
address, folder, seed, *records = sys.argv[1:]
records = [ChunkRecord(f"chunk-0-{number}.bin", 2000, sha256, 1000) for number, sha256 in enumerate(records)]
chunks = TokenChunks(address, records, vocab_size=500, cache=ChunkCache(folder, 4100), verify_hashes=True)
draw = random.Random(seed)
for _ in range(60):
    start = draw.randrange(4990)
    found = chunks.read(start, 10).tolist()
    assert found == [place // 1000 * 100 + place % 100 for place in range(start, start + 10)], (start, found)
"""


def test_processes_share_a_cache_that_holds_too_little_for_them(remote, tmp_path):
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, remote[0], str(tmp_path / "cache"), str(seed)]
            + [record.sha256 for record in remote[1]],
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(2)
    ]
    for reader in readers:
        errors = reader.communicate(timeout=100)[1]
        assert reader.returncode == 0, errors
    assert len(cached(tmp_path, remote[1])) <= 2


DYING = """
import sys, time
from pathlib import Path
from litespark.data.stream.cache import ChunkCache
from litespark.data.chunks import ChunkRecord
from litespark.data.storage import Storage
def half(self, name, target, *, size):
    partial = target.with_name(f".{target.name}.1.partial")
    partial.write_bytes(b"x" * (size // 2))
    print("half", flush=True)
    time.sleep(100)
Storage.fetch = half
folder, sha256 = sys.argv[1:]
ChunkCache(folder, 6000).open("s3://nowhere", ChunkRecord("chunk-0-0.bin", 2000, sha256, 1000), verify_hash=False)
"""


def test_what_a_killed_process_left_is_cleared_away(remote, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", DYING, str(tmp_path / "cache"), remote[1][0].sha256], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    (partial,) = (tmp_path / "cache/chunks").iterdir()
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    child.stdout.close()
    read_from(chunks_of(remote, ChunkCache(tmp_path / "cache", 2000)), 0)
    assert not partial.exists()
    assert cached(tmp_path, remote[1]) == [0]


def test_a_full_disk_names_the_keys_to_set_and_faults_of_the_source_are_not_blamed_on_it(remote, tmp_path, monkeypatch):
    chunks = chunks_of(remote, cache(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=CHUNK_BYTES - 1))
        with pytest.raises(ValueError, match=r"data.cache=.*1999 are free.* set data.cache_bytes=20000 lower"):
            chunks.read(0, 1)
    for cause, message in (
        (OSError(errno.ENOSPC, "No space left"), r"data.cache=.*No space left.*data.cache_bytes"),
        (FileNotFoundError(errno.ENOENT, "gone"), r"^s3://bucket: gone$"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(Storage, "fetch", partial(fail, cause))
            with pytest.raises(ValueError, match=message):
                chunks.read(0, 1)
    read_from(chunks, 0)


def fail(cause: OSError, *_: object, **__: object) -> None:
    raise StorageError("s3://bucket: gone") from cause


def test_settings_that_cannot_work_are_refused(remote, tmp_path):
    with pytest.raises(ValueError, match=r"data.cache_bytes=1999 is less than one chunk: s3://.* has 2000 bytes"):
        chunks_of(remote, ChunkCache(tmp_path / "cache", 1999))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"data.cache=.*file cannot be used .*set data.cache to another folder"):
        ChunkCache(tmp_path / "file", 2000)


def test_a_manifest_is_copied_once_and_anew_when_it_changed(prepared, s3_server, s3_bucket, tmp_path, monkeypatch):
    address, held = f"{s3_bucket}/{prepared.name}", cache(tmp_path)
    fill(s3_server, address, prepared)
    folder = held.data_set(address + "/")
    manifest = Manifest.read(folder)
    assert manifest.hash == Manifest.read(prepared).hash
    assert Tokenizer.load(folder).hash == manifest.tokenizer_hash
    assert sorted(path.name for path in folder.iterdir()) == [FILE, "tokenizer.json", "tokenizer_config.json"]
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "fetch", None)
        assert held.data_set(address) == folder
    Storage(address).write(FILE, (prepared / FILE).read_bytes().replace(b'"bos_id": null', b'"bos_id": 7'))
    changed = held.data_set(address)
    assert changed != folder
    assert Manifest.read(changed).bos_id == 7


def test_a_copy_that_was_interrupted_is_made_whole(prepared, s3_server, s3_bucket, tmp_path, monkeypatch):
    fill(s3_server, f"{s3_bucket}/text", prepared)
    fetch = Storage.fetch

    def until(self, name, target, **options):
        if name == FILE:
            raise KeyboardInterrupt
        fetch(self, name, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "fetch", until)
        with pytest.raises(KeyboardInterrupt):
            cache(tmp_path).data_set(f"{s3_bucket}/text")
    folder = cache(tmp_path).data_set(f"{s3_bucket}/text")
    for name in (FILE, "tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (prepared / name).read_bytes()


def test_another_tokenizer_beside_the_manifest_is_refused(prepared, s3_server, s3_bucket, tmp_path):
    address = f"{s3_bucket}/text"
    fill(s3_server, address, prepared)
    (tmp_path / "other").mkdir()
    Tokenizer.train(documents(50, seed=9), vocab_size=400).save(tmp_path / "other")
    Storage(address).write("tokenizer.json", (tmp_path / "other/tokenizer.json").read_bytes())
    for _ in range(2):  # nothing is left that would pass for a copy
        with pytest.raises(ValueError, match=r"/text/tokenizer.json has the hash .*; the manifest .*copy it again"):
            cache(tmp_path).data_set(address)
