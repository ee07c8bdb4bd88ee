"""What goes wrong in a preparation is a clear error; there is no manifest, and what was finished is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litespark.data.prepare.prepare import prepare
from litespark.data.prepare.unit import UnitWorker
from litespark.data.prepare.work import UNITS, Work
from litespark.data.storage import Storage
from tests.data.corpus import config, documents, write_texts
from tests.data.prepare import interrupted
from tests.data.prepare.reading import content
from tests.data.prepare.records import write_records


def units_done(root: Path) -> set[int]:
    """Of the one folder below a root, which is not a data set."""
    (folder,) = root.iterdir()
    assert not (folder / "manifest.json").exists()
    return Work(Storage(folder)).done(UNITS)


def test_too_many_bad_documents_over_all_units_are_refused_and_a_higher_limit_continues(tmp_path, monkeypatch):
    source = write_texts(tmp_path / "text", documents(30))
    (source / "9999.txt").write_bytes(b"\xff")
    settings = config(source, tmp_path / "prepared", unit_bytes=1)
    with pytest.raises(ValueError, match=r"1 of 31 documents cannot be read \(invalid_utf8: 1\).*9999\.txt"):
        prepare(settings, progress=False)
    assert len(units_done(tmp_path / "prepared")) > 3
    (under_way,) = (tmp_path / "prepared").iterdir()
    with pytest.raises(ValueError, match=r"no manifest\.json, so its chunks are not a data set"):
        prepare(config(under_way, tmp_path / "elsewhere"), progress=False)
    monkeypatch.setattr(UnitWorker, "run", None)  # nothing is left to do
    # of one document in its unit, and few of the corpus
    assert content(prepare(replace(settings, max_bad_share=0.04), progress=False))
    with pytest.raises(ValueError, match=r"1 of 31 documents cannot be read"):
        prepare(settings, progress=False)


def test_too_little_space_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    source = write_texts(tmp_path / "text", documents(30))
    with pytest.raises(ValueError, match=r"has 0\.00 GB free; preparing .* needs about"):
        prepare(config(source, tmp_path / "prepared"), progress=False)
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_that_fills_midway_is_an_error_that_says_so_and_what_fitted_is_kept(tmp_path, processes):
    source = write_records(tmp_path / "text", documents(120), files=6)
    (source / "05.jsonl").write_text((source / "00.jsonl").read_text().replace("document", "doc") * 30)
    settings = config(source, tmp_path / "prepared", unit_bytes=4000, chunk_tokens=10**6, processes=processes)
    limit = "import resource, runpy, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
    run = f"sys.argv[1:] = {[json.dumps(asdict(settings)), 'nowhere']!r}\n"
    run += f"runpy.run_path({interrupted.__file__!r}, run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", limit + run], capture_output=True, text=True, env=interrupted.ENVIRONMENT, timeout=60
    )
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "Make room, or set data.root to another folder. What was finished is kept" in result.stderr
    assert units_done(tmp_path / "prepared")
    folder = prepare(settings, progress=False)
    undisturbed = prepare(replace(settings, root=str(tmp_path / "undisturbed")), progress=False)
    assert content(folder) == content(undisturbed)


def test_a_shard_that_vanishes_midway_is_named(tmp_path, monkeypatch):
    source = write_records(tmp_path / "text", documents(60), files=5)
    original = UnitWorker.run

    def run(worker: UnitWorker, stage: str, number: int) -> None:
        (source / "04.jsonl").unlink(missing_ok=True)
        original(worker, stage, number)

    monkeypatch.setattr(UnitWorker, "run", run)
    settings = config(source, tmp_path / "prepared", unit_bytes=1000, processes=1)
    with pytest.raises(ValueError, match=r"04\.jsonl"):
        prepare(settings, progress=False)
    assert units_done(tmp_path / "prepared") == {0, 1, 2, 3}


def test_a_split_without_text_is_refused(tmp_path):
    write_texts(tmp_path / "text" / "train", documents(5))
    write_texts(tmp_path / "text" / "validation", [" \n"])
    with pytest.raises(ValueError, match="its validation split holds no document with text in it"):
        prepare(config(tmp_path / "text", tmp_path / "prepared"), progress=False)
    assert not list((tmp_path / "prepared").glob("*/manifest.json"))


@pytest.mark.parametrize("unit_bytes", [1, 10**6])
def test_a_field_that_names_no_domains_is_refused_within_a_unit_and_over_all(tmp_path, unit_bytes):
    source = write_records(tmp_path / "text", documents(120), files=120)
    settings = config(source, tmp_path / "prepared", domain_field="text", unit_bytes=unit_bytes)
    with pytest.raises(ValueError, match=r"data\.domain_field=text names more than 100 domains"):
        prepare(settings, progress=False)
