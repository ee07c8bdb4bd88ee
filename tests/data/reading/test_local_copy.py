"""The manifest and tokenizer of a prepared folder behind an address."""

from __future__ import annotations

import pytest

from litespark.data.manifest import FILE, Manifest
from litespark.data.reading.cache import ChunkCache
from litespark.data.reading.local_copy import local_copy
from litespark.data.storage import Storage
from litespark.data.tokenizer import Tokenizer
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
    Storage(address).write(FILE, (prepared / FILE).read_bytes().replace(manifest.name.encode(), b"renamed"))
    renamed = local_copy(address, cache)
    assert renamed != folder
    assert Manifest.read(renamed).name == "renamed"


def test_a_copy_that_was_interrupted_is_made_whole(prepared, s3_server, s3_bucket, tmp_path, monkeypatch):
    fill(s3_server, f"{s3_bucket}/text", prepared)
    cache = ChunkCache(tmp_path / "cache", 10**9)
    fetch = Storage.fetch

    def until_the_manifest(self, name, target, **options):
        if name == FILE:
            raise KeyboardInterrupt
        fetch(self, name, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "fetch", until_the_manifest)
        with pytest.raises(KeyboardInterrupt):
            local_copy(f"{s3_bucket}/text", cache)
    assert Manifest.read(local_copy(f"{s3_bucket}/text", cache)).hash == Manifest.read(prepared).hash


def test_what_has_no_manifest_is_no_data_set(s3_bucket, tmp_path):
    with pytest.raises(ValueError, match=r"s3://.*/nothing has no manifest.json"):
        local_copy(f"{s3_bucket}/nothing", ChunkCache(tmp_path / "cache", 10**9))
