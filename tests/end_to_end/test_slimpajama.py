"""From a folder in SlimPajama's layout to the headline job: the commands of the README, on a miniature of both."""

import contextlib
import io
import json
import shlex
from pathlib import Path

import pytest

from litespark.cli import main
from tests.data.slimpajama import DOMAINS, write_slimpajama
from tests.end_to_end.runs import ROOT, TINY, train

FIRST = "litespark prepare experiment=llama3b_litespark data.source=FOLDER"
SMALLER = (
    *TINY, "trainer.accelerator=cpu", "precision=fp32", "budget.steps=6", "trainer.validate_every=3",
    "callbacks.report=true", "data.validation_sequences=null", "data.workers=1", "data.processes=2",
)  # fmt: skip


def commands() -> list[list[str]]:
    """Those of the README, in its words."""
    block = next(part for part in (ROOT / "README.md").read_text().split("```") if FIRST in part)
    return [shlex.split(line) for line in block.strip().splitlines()]


def printed(words: list[str], folder: Path, *overrides: str) -> str:
    """What a command prints, with FOLDER in place."""
    given = [*(word.replace("FOLDER", str(folder)) for word in words), *overrides]
    if given[:2] == ["python", "train.py"]:
        return train(*given[2:])
    assert given[0] == "litespark"
    lines = io.StringIO()
    with contextlib.redirect_stdout(lines):
        assert main(given[1:]) == 0
    return lines.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slimpajama")
    write_slimpajama(folder / "SlimPajama")
    return folder


def test_three_commands_lead_from_the_folder_to_the_headline_job(place: Path):
    prepare, check, headline = commands()
    smaller = [*SMALLER, f"paths.data={place}/data", f"paths.logs={place}/logs", "name=headline"]
    prepared = Path(printed(prepare, place / "SlimPajama", *smaller).splitlines()[0])
    assert prepared.parent == place / "data/prepared"
    written = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}

    assert check[:3] == ["litespark", "prepare", "--check"]
    assert "sound" in printed([*check[:3], str(prepared)], place)

    printed(headline, place / "SlimPajama", *smaller)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == written, "it was prepared again"
    run = place / "logs/runs/headline"
    values = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for domain in DOMAINS:
        assert any(f"validation/bits_per_byte/{domain}" in value for value in values)
        assert domain in (run / "report.md").read_text()
