"""Files of a run, of prepared data and of results that are damaged or of something else: one short message, never a
traceback, and no command waits for a file that never ends."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from litespark.cli import main
from litespark.metrics.energy import EnergyJournal
from litespark.reports import report
from tests.checkpoints import FILE
from tests.properties import HealthCheck, given, settings, st

LONGEST = 8
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
    """A run and the prepared data, to be damaged and mended."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(house / "logs" / "runs" / "first", folder / "run")
    (prepared,) = (house / "data").rglob("manifest.json")
    shutil.copytree(prepared.parent, folder / "prepared")
    (folder / "run" / "energy.jsonl").touch()
    return folder


@contextmanager
def damaged(path: Path) -> Iterator[Path]:
    """Puts a file back as it was at the end of the block."""
    before = path.read_bytes()
    try:
        yield path
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(before)


def checkpoint(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def files_of_a_run(run: Path) -> list[Path]:
    names = ("run.json", "metrics.jsonl", "config.yaml", "data.json", "samples.md", "energy.jsonl")
    inside = [checkpoint(run) / name for name in ("checkpoint.json", FILE)]
    return [*(run / name for name in names), *inside, run / "tokenizer" / "tokenizer.json"]


def commands_of_a_run(folder: Path) -> list[list[str]]:
    run = folder / "run"
    return [
        ["report", str(run)],
        ["generate", str(run), "--prompt", "the", "--tokens", "1"],
        ["generate", str(checkpoint(run)), "--prompt", "the", "--tokens", "1"],
        ["export", str(run), str(folder / "exported")],
    ]


def refused_or_done(words: list[str], capsys: Any) -> None:
    status = main(words)
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.strip()]
    assert status in (0, 1), said
    assert "Traceback" not in said
    if status:
        assert len(lines) <= LONGEST, said
        assert any(place in said for place in ("/run", "/prepared", "/results")), said
    shutil.rmtree(Path(words[-1]), ignore_errors=True) if words[0] == "export" else None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_one_message(copies, capsys, damage):
    for path in files_of_a_run(copies / "run"):
        with damaged(path):
            DAMAGES[damage](path)
            read_by_all = path.name in ("config.yaml", "checkpoint.json", FILE, "tokenizer.json")
            for words in commands_of_a_run(copies)[: None if read_by_all else 2]:
                refused_or_done(words, capsys)
            EnergyJournal(copies / "run" / "energy.jsonl").last()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_prepared_data_is_one_message(copies, capsys, damage):
    prepared = copies / "prepared"
    for name in ("manifest.json", "tokenizer.json", "tokenizer_config.json", "train/index.json"):
        found = sorted(prepared.rglob(Path(name).name))
        with damaged(found[0]) as path:
            DAMAGES[damage](path)
            refused_or_done(["prepare", "--check", str(prepared)], capsys)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


def with_value(values: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    changed = copy.deepcopy(values)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = odd
    return changed


def as_json(values: Any) -> bytes:
    return json.dumps(values).encode()


def as_lines(rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows) if isinstance(rows, list) else b"x"


KINDS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes], list[int]]] = {
    "run.json": (json.loads, as_json, [0]),
    "data.json": (json.loads, as_json, [0]),
    "metrics.jsonl": (lambda text: [json.loads(line) for line in text.splitlines()], as_lines, [0]),
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
        values = read(path.read_bytes())
        place = data.draw(st.sampled_from(list(paths(values))))
        path.write_bytes(written(with_value(values, place, data.draw(ODD_VALUES))))
        for index in which:
            refused_or_done(commands_of_a_run(copies)[index], capsys)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_results_is_one_message(tmp_path, capsys, damage):
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    record = tmp_path / "results" / "cpu" / "bench-step.json"
    record.write_text('{"schema": "litespark.bench-step/1", "seal": "0"}')
    DAMAGES[damage](record)
    for words in (["results", "--root", str(tmp_path)], ["results", "--check", "--root", str(tmp_path)]):
        refused_or_done(words, capsys)


@pytest.mark.parametrize(
    "words",
    [["report", "{w}"], ["generate", "{w}", "--prompt", "a"], ["export", "{w}", "{o}"], ["prepare", "--check", "{w}"]],
)
@pytest.mark.parametrize("what", ["nothing", "file", "pipe", "link", "long", "surrogate", "nul", "empty"])
def test_a_folder_that_is_none_is_one_message(tmp_path, capsys, words, what):
    place = tmp_path / "run" / what
    place.parent.mkdir()
    if what == "file":
        place.write_text("x")
    elif what == "pipe":
        os.mkfifo(place)
    elif what == "link":
        place.symlink_to(place)
    elif what == "empty":
        place.mkdir()
    name = {"long": str(place) + "x" * 5000, "surrogate": f"{place}\udcff", "nul": f"{place}\0"}.get(what, str(place))
    assert main([word.format(w=name, o=tmp_path / "exported") for word in words]) in (1, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) <= LONGEST
