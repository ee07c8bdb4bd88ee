"""From a folder in SlimPajama's layout to the headline job: the commands of the README, on a miniature of both."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.slimpajama import DOMAINS, write_slimpajama
from tests.end_to_end.runs import ROOT, TINY, environment

FIRST = "litespark prepare experiment=llama3b_litespark data.source=FOLDER"
SMALLER = (
    *TINY,
    "trainer.accelerator=cpu",
    "precision=fp32",
    "budget.steps=6",
    "trainer.validate_every=3",
    "callbacks.report=true",
    "data.validation_rows=null",
    "data.workers=1",
    "data.processes=2",
)


def commands() -> list[list[str]]:
    """Those of the README, in its words."""
    block = next(part for part in (ROOT / "README.md").read_text().split("```") if FIRST in part)
    return [shlex.split(line) for line in block.strip().splitlines()]


def started(words: list[str], folder: Path, *overrides: str) -> str:
    """What a command prints, with FOLDER in place."""
    programs = {"litespark": ["-m", "litespark.cli"], "python": []}
    line = [sys.executable, *programs[words[0]], *(word.replace("FOLDER", str(folder)) for word in words[1:])]
    done = subprocess.run(
        [*line, *overrides], cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slimpajama")
    write_slimpajama(folder / "SlimPajama")
    return folder


def test_three_commands_lead_from_the_folder_to_the_headline_job(place: Path):
    prepare, check, train = commands()
    smaller = [*SMALLER, f"paths.data={place}/data", f"paths.logs={place}/logs", "name=headline"]
    printed = started(prepare, place / "SlimPajama", *smaller)
    prepared = Path(printed.splitlines()[0])
    assert prepared.parent == place / "data/prepared"
    written = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}

    assert check[:3] == ["litespark", "prepare", "--check"]
    assert "sound" in started([*check[:3], str(prepared)], place)

    started(train, place / "SlimPajama", *smaller)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == written, "it was prepared again"
    run = place / "logs/runs/headline"
    values = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for domain in DOMAINS:
        assert any(f"validation/bits_per_byte/{domain}" in value for value in values)
        assert domain in (run / "report.md").read_text()
