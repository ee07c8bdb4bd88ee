"""Files of a run, of prepared data and of results that are damaged or of something else: one short message, never a
traceback, and no command waits for a file that never ends."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml

from litespark.cli import main
from litespark.metrics.energy_totals import EnergyJournal
from litespark.reports import report
from tests.properties import HealthCheck, given, settings, st

LONGEST = 8
FILES_OF_DATA = ("manifest.json", "tokenizer.json", "tokenizer_config.json", "train/text/index.json")
DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bytes of something else": lambda path: path.write_bytes(bytes(range(256)) * 3),
    "zeros": lambda path: path.write_bytes(b"\0" * 100),
    "nested without end": lambda path: path.write_bytes(b"[" * 100_000),
    "a list": lambda path: path.write_bytes(b"[1]\n"),
    "a number": lambda path: path.write_bytes(b"1\n"),
    "a mark before it": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "half a character": lambda path: path.write_bytes(b'{"a": "\\ud800"}\n'),
    "an alias of itself": lambda path: path.write_bytes(b"a: &a {x: *a}\n"),
    "a date that is none": lambda path: path.write_bytes(b"a: 2026-99-99\n"),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to(path.parent / "nowhere")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}
ODD_VALUES = st.sampled_from(
    [None, True, 0, -1, 10**30, 10**400, 1e308, 5e-324, "", "x", "\ud800", [], {}, [1], {"a": 1}, [[]], "..", "a\0b"]
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for module in (report, report.prepared_plots):
        monkeypatch.setattr(module, "save_pictures", lambda *runs, **named: {})


@pytest.fixture(scope="module")
def copies(house, tmp_path_factory) -> Path:
    """A run, the prepared data and a record, to be damaged and mended."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(house / "logs" / "runs" / "first", folder / "run")
    (prepared,) = (house / "data").rglob("manifest.json")
    shutil.copytree(prepared.parent, folder / "prepared")
    (folder / "run" / "energy.jsonl").touch()
    (folder / "results" / "cpu").mkdir(parents=True)
    (folder / "results" / "cpu" / "bench-step.json").write_text('{"schema": "litespark.bench-step/1", "seal": "0"}')
    return folder


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Puts a file back as it was at the end of the block."""
    before = path.read_bytes()
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(before)


def checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def files_of_a_run(run: Path) -> list[Path]:
    names = ("run.json", "metrics.jsonl", "config.yaml", "data.json", "samples.md", "energy.jsonl")
    inside = [checkpoint(run) / name for name in ("checkpoint.json", "state.ckpt")]
    return [*(run / name for name in names), *inside, run / "tokenizer" / "tokenizer.json"]


def commands_of_a_run(folder: Path) -> list[list[str]]:
    run, more = folder / "run", ["--prompt", "the", "--tokens", "1"]
    exported = ["export", str(run), str(folder / "exported")]
    return [["report", str(run)], ["generate", str(run), *more], ["generate", str(checkpoint(run)), *more], exported]


def refused_or_done(words: list[str], capsys: Any) -> None:
    status = main(words)
    said = capsys.readouterr().err
    assert status in (0, 1), said
    assert "Traceback" not in said
    if status:
        assert len([line for line in said.splitlines() if line.strip()]) <= LONGEST, said
        assert any(place in said for place in ("/run", "/prepared", "/results")), said
    if words[0] == "export":
        shutil.rmtree(words[-1], ignore_errors=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_one_message(copies, capsys, damage):
    for path in files_of_a_run(copies / "run"):
        with damaged(path):
            DAMAGES[damage](path)
            read_by_all = path.name in ("config.yaml", "checkpoint.json", "state.ckpt", "tokenizer.json")
            for words in commands_of_a_run(copies)[: None if read_by_all else 2]:
                refused_or_done(words, capsys)
            EnergyJournal(copies / "run" / "energy.jsonl").last()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_prepared_data_or_a_record_of_results_is_one_message(copies, capsys, damage):
    prepared, record = copies / "prepared", copies / "results" / "cpu" / "bench-step.json"
    check = ["prepare", "--check", str(prepared)]
    results = [["results", "--root", str(copies)], ["results", "--check", "--root", str(copies)]]
    for path in (*(prepared / name for name in FILES_OF_DATA), record):
        with damaged(path):
            DAMAGES[damage](path)
            for words in results if path == record else [check]:
                refused_or_done(words, capsys)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


def as_json(values: Any) -> bytes:
    return json.dumps(values).encode()


# how a file is read and written, and which of the commands read it
KINDS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes], list[int]]] = {
    "run.json": (json.loads, as_json, [0]),
    "data.json": (json.loads, as_json, [0]),
    "metrics.jsonl": (
        lambda text: [json.loads(line) for line in text.splitlines()],
        lambda rows: b"".join(as_json(row) + b"\n" for row in rows) if isinstance(rows, list) else b"x",
        [0],
    ),
    "config.yaml": (yaml.safe_load, lambda values: yaml.safe_dump(values).encode("utf-8", "backslashreplace"), [0]),
    "checkpoint.json": (json.loads, as_json, [1, 2]),
}


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_value_of_another_kind_in_a_file_of_a_run_is_one_message(copies, capsys, name, data):
    read, written, which = KINDS[name]
    (path,) = [each for each in files_of_a_run(copies / "run") if each.name == name]
    with damaged(path):
        root = {"": read(path.read_bytes())}
        *keys, last = ("", *data.draw(st.sampled_from(list(paths(root[""])))))
        reduce(getitem, keys, root)[last] = data.draw(ODD_VALUES)
        path.write_bytes(written(root[""]))
        for index in which:
            refused_or_done(commands_of_a_run(copies)[index], capsys)


@pytest.mark.parametrize(
    "words",
    [["report", "{w}"], ["generate", "{w}", "--prompt", "a"], ["export", "{w}", "{o}"], ["prepare", "--check", "{w}"]],
)
def test_a_folder_that_is_none_is_one_message(tmp_path, capsys, words):
    places = {name: tmp_path / name / "run" for name in ("nothing", "file", "pipe", "link", "empty")}
    for place in places.values():
        place.parent.mkdir()
    places["empty"].mkdir()
    places["file"].write_text("x")
    places["link"].symlink_to(places["link"])
    os.mkfifo(places["pipe"])
    for name in (*map(str, places.values()), f"{tmp_path}/{'x' * 5000}", f"{tmp_path}/\udcff", f"{tmp_path}/\0"):
        assert main([word.format(w=name, o=tmp_path / "exported") for word in words]) in (1, 2)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert len(said.splitlines()) <= LONGEST
