"""Files behind an address: the same answers on a disk and on S3, and what happens when the connection does not hold."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import random
import sys
import time

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry

from litespark.atomic import content_hash
from litespark.data import storage as module
from litespark.data.local_files import LocalFiles
from litespark.data.storage import Storage, StorageError
from tests.data.s3_server import CuttingProxy, fill, s3_client, speak_to

s3fs = pytest.importorskip("s3fs")

CONTENT = random.Random(0).randbytes(3_000_000)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture(params=["here", "s3"])
def storage(request, tmp_path):
    address = tmp_path / "storage" if request.param == "here" else request.getfixturevalue("s3_bucket")
    return Storage(f"{address}/folder")


def names(files):
    return [file.name for file in files]


def test_files_are_written_listed_read_fetched_and_removed(storage, tmp_path):
    assert storage.files() == []
    assert not storage.exists("a/b.txt")
    storage.write("c.txt", b"")
    storage.write("a/b.txt", b"content")
    before = storage.listed("a/b.txt")
    storage.write("a/b.txt", b"new content")
    assert storage.listed("a/b.txt").version != before.version
    assert [(file.name, file.size) for file in storage.files()] == [("a/b.txt", 11), ("c.txt", 0)]
    assert storage.files("a") == [storage.listed("a/b.txt")]
    assert names(storage.below("a").files()) == ["b.txt"]
    assert storage.exists("a/b.txt")
    assert not storage.exists("a"), "a folder is no file"
    assert storage.read("a/b.txt") == b"new content"
    storage.fetch("a/b.txt", tmp_path / "b", size=11)
    assert (tmp_path / "b").read_bytes() == b"new content"
    for _ in range(2):
        storage.remove("a/b.txt")
    assert names(storage.files()) == ["c.txt"]
    assert storage.where("c.txt") == f"{storage.address}/c.txt"


def test_a_file_that_is_missing_or_of_another_size_is_named_at_once_and_leaves_nothing(storage, tmp_path, monkeypatch):
    storage.write("a", b"12345")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it will not change by waiting"))
    (tmp_path / "target").mkdir()
    with pytest.raises(StorageError, match=r"/folder/nothing: FileNotFoundError.*Check the address"):
        storage.read("nothing")
    with pytest.raises(StorageError, match="/folder/nothing: FileNotFoundError"):
        storage.fetch("nothing", tmp_path / "target" / "a")
    with pytest.raises(StorageError, match=r"/folder/a has 5 bytes, expected 6: it has changed"):
        storage.fetch("a", tmp_path / "target" / "a", size=6)
    assert not list((tmp_path / "target").iterdir())


def test_what_another_process_wrote_or_removed_is_seen_at_once(s3_server, s3_bucket):
    storage, other = Storage(f"{s3_bucket}/folder"), s3_client(s3_server)
    bucket = s3_bucket.removeprefix("s3://")
    for name in ("a", "b"):
        assert not storage.exists(name)
        other.put_object(Bucket=bucket, Key=f"folder/{name}", Body=b"x")
        assert storage.exists(name)
        assert storage.files()[-1].name == storage.matching("*")[-1].name == name
    other.put_object(Bucket=bucket, Key="folder/a", Body=b"longer")
    assert storage.listed("a").size == 6
    other.delete_object(Bucket=bucket, Key="folder/b")
    assert not storage.exists("b")


def exists_in_child(storage, answers):
    answers.put(storage.exists("a"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_storage_works_in_processes_that_were_started_after_it(storage, method):
    storage.write("a", b"x")
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=exists_in_child, args=(storage, answers))
    child.start()
    try:
        assert answers.get(timeout=60)
    finally:
        child.terminate()
        child.join(10)
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"x"


@pytest.fixture
def cut(s3_server, s3_bucket, monkeypatch, tmp_path):
    """Makes a storage behind a proxy that cuts so many answers."""
    s3_client(s3_server).put_object(Bucket=s3_bucket.removeprefix("s3://"), Key="folder/a", Body=CONTENT)
    proxies = []

    def storage(cuts, after):
        proxies.append(CuttingProxy(s3_server, cuts=cuts, after=after))
        speak_to(proxies[-1].address, monkeypatch, tmp_path)
        # or s3fs would mend the cut by itself: it asks for the rest, where the protocol lets it
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        return proxies[-1], Storage(f"{s3_bucket}/folder")

    yield storage
    for proxy in proxies:
        proxy.__exit__()


def test_a_transfer_that_is_cut_is_tried_again_five_times_and_leaves_nothing(cut, tmp_path, caplog):
    proxy, storage = cut(cuts=3, after=1_000_000)
    storage.fetch("a", tmp_path / "a", size=len(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert proxy.cut == sum("trying again in" in record.message for record in caplog.records) == 3
    (tmp_path / "target").mkdir()
    proxy.cut_more(1000)
    with pytest.raises(StorageError, match=r"/folder/a: .*, 5 times in a row\. Check the connection and start again"):
        storage.fetch("a", tmp_path / "target" / "a", size=len(CONTENT))
    assert proxy.cut == 5
    assert not list((tmp_path / "target").iterdir())


REQUESTS = {"exists": ("a",), "listed": ("a",), "read": ("a",), "files": ("",), "write": ("b", b"content")}


def test_no_request_takes_a_lost_connection_for_an_answer(cut):
    proxy, storage = cut(cuts=0, after=0)
    for ask, arguments in REQUESTS.items():
        proxy.cut_more(2)
        getattr(storage, ask)(*arguments)
        assert proxy.cut == 2, ask
    proxy.cut_more(1000)
    with pytest.raises(StorageError, match="5 times in a row"):
        storage.exists("a")


def test_a_transfer_that_ends_early_without_an_error_is_tried_again(s3_server, s3_bucket, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(CONTENT)
    fill(s3_server, s3_bucket, tmp_path)
    whole, calls = s3fs.S3FileSystem.get_file, []

    def short_once(system, path, target, **options):
        whole(system, path, target, **options)
        calls.append(path)
        if len(calls) == 1:
            with open(target, "r+b") as file:  # noqa: PTH123 as s3fs does
                file.truncate(1000)

    monkeypatch.setattr(s3fs.S3FileSystem, "get_file", short_once)
    s3fs.S3FileSystem.clear_instance_cache()
    Storage(s3_bucket).fetch("a", tmp_path / "fetched", size=len(CONTENT))
    assert content_hash(tmp_path / "fetched") == content_hash(tmp_path / "a")
    assert len(calls) == 2


def test_a_full_disk_here_is_not_taken_for_a_lost_connection(s3_bucket, tmp_path, monkeypatch):
    calls = []

    def full(system, path, target, **options):
        calls.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(s3fs.S3FileSystem, "get_file", full)
    s3fs.S3FileSystem.clear_instance_cache()
    storage = Storage(s3_bucket)
    with pytest.raises(OSError, match="No space left"):
        storage.fetch("a", tmp_path / "fetched")
    assert len(calls) == 1
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        storage.fetch("a", tmp_path / "no_such_folder" / "fetched")


def test_refused_access_is_an_error_at_once(s3_bucket, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("Access Denied")

    for request in ("info", "cat_file", "find", "pipe_file"):
        monkeypatch.setattr(s3fs.S3FileSystem, request, refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it will not change by waiting"))
    for ask, arguments in REQUESTS.items():
        with pytest.raises(StorageError, match=rf"{s3_bucket}/.*PermissionError.*Check the address and the access"):
            getattr(Storage(s3_bucket), ask)(*arguments)


def test_without_keys_and_without_the_bucket_the_address_is_named(s3_bucket, monkeypatch):
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/a: FileNotFoundError.*bucket"):
        Storage("s3://no-such-bucket").write("a", b"x")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=rf"{s3_bucket}/a: NoCredentialsError: Unable to locate credentials"):
        Storage(s3_bucket).read("a")


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(StorageError, match=r"s3://bucket: .*Install what reads it: pip install 'litespark\[s3\]'"):
        Storage("s3://bucket")
    with pytest.raises(StorageError, match=r"abc://x: .*not known.*such as s3://BUCKET/FOLDER"):
        Storage("abc://x")


def test_a_link_that_leads_nowhere_is_listed_so_that_it_is_missed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (listed,) = Storage(tmp_path).files()
    assert (listed.name, listed.size) == ("link", 0)
    assert Storage(tmp_path).listed("link") == listed
    with pytest.raises(StorageError, match="link: FileNotFoundError"):
        Storage(tmp_path).read("link")


def test_a_write_that_fails_midway_keeps_what_was_there(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.write("a", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("litespark.data.local_files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write("a", b"new")
    assert storage.read("a") == b"old"
    assert [file.name for file in storage.files()] == ["a"]


def test_the_files_of_fsspec_have_the_faults_that_ours_mend(tmp_path):
    theirs, ours = LocalFileSystem(), LocalFiles()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").write_bytes(b"x")
    (tmp_path / "linked").symlink_to("folder", target_is_directory=True)
    (tmp_path / "file").symlink_to("folder/a")
    os.mkfifo(tmp_path / "pipe")
    seen = [{path.removeprefix(f"{tmp_path}/") for path in system.find(str(tmp_path))} for system in (theirs, ours)]
    assert seen == [{"folder/a", "linked", "file", "pipe"}, {"folder/a", "linked/a", "file"}]
    at = 10**18 + 1
    os.utime(tmp_path / "folder/a", ns=(at, at))
    assert [system.info(f"{tmp_path}/folder/a")["mtime"] == at for system in (theirs, ours)] == [False, True]
    inode = (tmp_path / "folder/a").stat().st_ino
    theirs.pipe_file(f"{tmp_path}/folder/a", b"y")
    assert (tmp_path / "folder/a").stat().st_ino == inode, "it was written in place"
