"""The manifest and tokenizer of a prepared folder behind an address."""

from __future__ import annotations

import pytest

from litespark.data.manifest import FILE, Manifest
from litespark.data.storage import Storage
from litespark.data.stream.cache import ChunkCache
from litespark.data.stream.local_copy import local_copy
from litespark.data.tokenizer import Tokenizer
from tests.data.corpus import documents
from tests.data.s3_server import fill


def test_a_copy_is_made_once_and_anew_when_the_manifest_changed(prepared, s3_server, s3_bucket, tmp_path, monkeypatch):
    address = f"{s3_bucket}/{prepared.name}"
    fill(s3_server, address, prepared)
    cache = ChunkCache(tmp_path / "cache", 10**9)
    folder = local_copy(address + "/", cache)
    manifest = Manifest.read(folder)
    assert manifest.hash == Manifest.read(prepared).hash
    assert Tokenizer.load(folder).hash == manifest.tokenizer_hash
    assert folder.parent == tmp_path.resolve() / "cache/data_sets"
    assert sorted(path.name for path in folder.iterdir()) == [FILE, "tokenizer.json", "tokenizer_config.json"]
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "fetch", None)
        assert local_copy(address, cache) == folder
    Storage(address).write(FILE, (prepared / FILE).read_bytes().replace(b'"bos_id": null', b'"bos_id": 7'))
    changed = local_copy(address, cache)
    assert changed != folder
    assert Manifest.read(changed).bos_id == 7


@pytest.mark.parametrize("last", ["tokenizer_config.json", FILE])
def test_a_copy_that_was_interrupted_is_made_whole(prepared, s3_server, s3_bucket, tmp_path, monkeypatch, last):
    fill(s3_server, f"{s3_bucket}/text", prepared)
    cache = ChunkCache(tmp_path / "cache", 10**9)
    fetch = Storage.fetch

    def until(self, name, target, **options):
        if name == last:
            raise KeyboardInterrupt
        fetch(self, name, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "fetch", until)
        with pytest.raises(KeyboardInterrupt):
            local_copy(f"{s3_bucket}/text", cache)
    folder = local_copy(f"{s3_bucket}/text", cache)
    assert Manifest.read(folder).hash == Manifest.read(prepared).hash
    assert (folder / "tokenizer_config.json").read_bytes() == (prepared / "tokenizer_config.json").read_bytes()
    assert Tokenizer.load(folder).hash == Manifest.read(folder).tokenizer_hash


def test_another_tokenizer_beside_the_manifest_is_refused(prepared, s3_server, s3_bucket, tmp_path):
    address = f"{s3_bucket}/text"
    fill(s3_server, address, prepared)
    (tmp_path / "other").mkdir()
    Tokenizer.train(documents(50, seed=9), vocab_size=400).save(tmp_path / "other")
    Storage(address).write("tokenizer.json", (tmp_path / "other/tokenizer.json").read_bytes())
    cache = ChunkCache(tmp_path / "cache", 10**9)
    for _ in range(2):  # nothing is left that would pass for a copy
        with pytest.raises(ValueError, match=r"/text/tokenizer.json has the hash .*; the manifest .*copy it again"):
            local_copy(address, cache)
    fill(s3_server, address, prepared)
    assert Tokenizer.load(local_copy(address, cache)).hash == Manifest.read(prepared).tokenizer_hash


def test_a_cache_that_cannot_be_written_is_named(prepared, s3_server, s3_bucket, tmp_path):
    fill(s3_server, f"{s3_bucket}/text", prepared)
    cache = ChunkCache(tmp_path / "cache", 10**9)
    (cache.folder / "data_sets").write_text("a file in the way")
    with pytest.raises(ValueError, match=r"data\.cache=.* cannot be used: .*Set it to another folder"):
        local_copy(f"{s3_bucket}/text", cache)


def test_what_has_no_manifest_is_no_data_set(s3_bucket, tmp_path):
    with pytest.raises(ValueError, match=r"s3://.*/nothing has no manifest.json"):
        local_copy(f"{s3_bucket}/nothing", ChunkCache(tmp_path / "cache", 10**9))
