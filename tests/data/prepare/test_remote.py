"""From a bucket to a bucket (moto on loopback): the same bytes as on a disk, also after a kill."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from litespark.data.manifest import Manifest
from litespark.data.prepare.check import check_prepared
from litespark.data.prepare.prepare import look_up, prepare
from litespark.data.prepare.same_text import NOTE, START
from litespark.data.prepare.work import WORK, Work
from litespark.data.select.config import SelectionConfig
from litespark.data.storage import Storage
from tests.data.corpus import config, documents
from tests.data.prepare.reading import content
from tests.data.prepare.records import write_records


@pytest.fixture
def source(tmp_path: Path, s3_bucket: str) -> str:
    """An address with the files of `tmp_path/text`."""
    folder = write_records(tmp_path / "text", [*documents(60), *documents(10)], files=4)
    bucket = Storage(f"{s3_bucket}/raw")
    for file in folder.iterdir():
        bucket.write(file.name, file.read_bytes())
    return bucket.address


def settings(source: Path | str, root: Path | str, **changes: object):
    selection = SelectionConfig(exact_duplicates=True)
    return config(source, root, unit_bytes=6000, chunk_tokens=4000, name="text", selection=selection, **changes)


def remote_content(address: str) -> dict[str, bytes]:
    storage = Storage(address)
    return {file.name: storage.read(file.name) for file in storage.files()}


def without_source(files: dict[str, bytes]) -> dict[str, bytes]:
    """The manifest states its source, and the notes beside it the versions of its files."""
    lines = files["manifest.json"].splitlines()
    kept = [line for line in lines if not line.startswith((b'"settings"', b'"name"'))]
    others = {name: data for name, data in files.items() if not fnmatch(name, NOTE) and not fnmatch(name, START)}
    return others | {"manifest.json": b"\n".join(kept)}


def test_a_bucket_gets_the_bytes_that_a_disk_gets(source, tmp_path, s3_bucket):
    local = prepare(settings(tmp_path / "text", tmp_path / "prepared"), progress=False)
    of_bucket = settings(source, f"{s3_bucket}/prepared", processes=2)
    look_up(of_bucket)
    address = prepare(of_bucket, progress=False)
    assert address.startswith(f"{s3_bucket}/prepared/text-")
    found = remote_content(address)
    assert without_source(found) == without_source(content(local))
    assert not [name for name in found if name.startswith(WORK)]
    assert prepare(of_bucket, progress=False) == address
    assert prepare(config(address, tmp_path / "elsewhere"), progress=False) == address
    assert check_prepared(address) == (Manifest.read(address), [])
    name = next(name for name in found if name.endswith(".bin"))
    Storage(address).write(name, found[name][:-1] + b"x")
    with pytest.raises(ValueError, match=rf"{name} has SHA-256"):
        check_prepared(address)


def test_what_is_missing_in_a_bucket_is_prepared_again(source, s3_bucket, monkeypatch):
    undisturbed = prepare(settings(source, f"{s3_bucket}/undisturbed"), progress=False)
    interrupted = settings(source, f"{s3_bucket}/prepared")
    address = f"{s3_bucket}/prepared/{undisturbed.rsplit('/', 1)[1]}"
    write, calls = Work.write_result, []

    def fail_third(work: Work, unit: int, result: object) -> None:
        calls.append(unit)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(work, unit, result)

    monkeypatch.setattr(Work, "write_result", fail_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(interrupted, progress=False)
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Manifest.read(address)
    assert prepare(interrupted, progress=False) == address
    assert calls[:4] == [0, 1, 2, 2], "what was done is done again"
    assert remote_content(address) == remote_content(undisturbed)


def test_nodes_share_a_bucket(source, s3_bucket):
    plain = replace(settings(source, f"{s3_bucket}/nodes"), selection=SelectionConfig())
    first, last = (replace(plain, nodes=2, node_rank=rank) for rank in range(2))
    assert prepare(first, progress=False) is None
    address = prepare(last, progress=False)
    assert check_prepared(address)[1] == []
