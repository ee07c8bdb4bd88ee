"""Runs a notebook from its first cell to its last, and reads what it showed."""

from __future__ import annotations

from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
CellExecutionError = nbclient.exceptions.CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: object) -> list[dict]:
    """The outputs of `notebooks/{name}.py`, run in `folder`; of the environment, None is a variable that is not set."""
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    for variable, value in environment.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, str(value))
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    client = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(folder)}})
    return [output for cell in client.execute().cells for output in cell.get("outputs", [])]


def shown(outputs: list[dict]) -> str:
    """All text that the notebook shows."""
    pieces = []
    for output in outputs:
        data = output.get("data", {})
        pieces.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return "\n".join(pieces)


def pictures(outputs: list[dict]) -> int:
    """How many pictures it shows."""
    return sum("image/png" in output.get("data", {}) for output in outputs)
