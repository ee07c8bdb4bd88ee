"""Files behind an address: the same answers on a disk and on S3, and what happens when the connection does not hold."""

from __future__ import annotations

from litespark.data.storage import Storage


def test_a_file_on_s3_is_written_listed_read_and_removed(s3_bucket, tmp_path):
    storage = Storage(f"{s3_bucket}/folder")
    assert storage.files() == []
    storage.write("a/b.txt", b"content")
    assert [(file.name, file.size) for file in storage.files()] == [("a/b.txt", 7)]
    assert storage.read("a/b.txt") == b"content"
    assert storage.size("a/b.txt") == 7
    storage.fetch("a/b.txt", tmp_path / "b", size=7)
    assert (tmp_path / "b").read_bytes() == b"content"
    storage.remove("a/b.txt")
    assert not storage.exists("a/b.txt")
    assert storage.files() == []
