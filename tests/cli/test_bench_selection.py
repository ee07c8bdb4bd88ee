"""`litespark bench selection` at the command line: what it is given, what it says, and its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litespark.benchmarks.selection import session
from litespark.benchmarks.selection.session import SelectionSettings
from litespark.cli import main
from tests.metrics.selection_records import two_seeds


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the session was given; it answers with a record of two seeds."""
    found: dict[str, Any] = {"record": two_seeds()}

    def bench(compose: object, overrides: object, settings: object, **others: object) -> tuple[object, Path]:
        found.update(overrides=overrides, settings=settings, **others)
        return found["record"], tmp_path / "record.json"

    monkeypatch.setattr(session, "bench_selection", bench)
    return found


def test_what_is_said_arrives_and_the_tables_are_printed(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=text", "data/selection=web", "--seeds", "1,2", "--clean-bytes", "5000", "--planted", "0.5"]
    assert main(["bench", "selection", *words, "--planted-seed", "7"]) == 0
    assert given["settings"] == SelectionSettings((1, 2), 5000, 0.5, 7)
    assert given["overrides"] == ["data=text", "data/selection=web"]
    assert given["script"].name == "train.py"
    assert given["command"] == ["litespark", "bench", "selection", *words, "--planted-seed", "7"]
    said = capsys.readouterr().out
    assert "selected: dropped documents" in said
    assert "record.json" in said


def test_a_record_that_is_not_complete_is_not_a_success(given: dict[str, Any]) -> None:
    given["record"].complete = False
    assert main(["bench", "selection"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1,1"], "--seeds: got [1, 1], expected whole numbers, each once"),
        (["--seeds", "x"], "--seeds: got 'x'"),
        (["--seeds", "1,-1"], "--seeds[1]: got -1, expected a whole number from 0"),
        (["--planted", "1e6"], "--planted: got 1000000.0, expected a number from 0 to 1000"),
    ],
)
def test_what_was_said_wrong_is_named(
    given: dict[str, Any], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "selection", *words]) == 1
    assert message in capsys.readouterr().err
    assert "settings" not in given
