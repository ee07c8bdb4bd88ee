"""Runs a notebook from its first cell to its last, and reads what it showed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
interactive = pytest.importorskip("IPython.core.interactiveshell")
capture = pytest.importorskip("IPython.utils.capture")
pylabtools = pytest.importorskip("IPython.core.pylabtools")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def execute(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, kernel: bool = False, **environment: object
) -> list[dict]:
    """The outputs of `notebooks/{name}.py`, run in `folder`.

    A kernel of its own takes long to start; else IPython runs the cells in this process. Of the environment, None is a
    variable that is not set.
    """
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    for variable, value in environment.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, str(value))
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    if kernel:
        client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        return [output for cell in client.execute().cells for output in cell.get("outputs", [])]
    monkeypatch.chdir(folder)
    outputs: list[dict] = []
    with _shell() as shell:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                with capture.capture_output() as shown_by_cell:
                    done = shell.run_cell(cell.source)
                outputs += [{"text": shown_by_cell.stdout}, *({"data": each.data} for each in shown_by_cell.outputs)]
                done.raise_error()
    return outputs


class _Shell(interactive.InteractiveShell):
    def enable_gui(self, gui: object = None) -> None:
        """There is none: pictures are shown in the outputs."""


@contextmanager
def _shell() -> Iterator[Any]:
    shell = _Shell.instance()
    shell.history_manager.enabled = False
    pylabtools.select_figure_formats(
        shell, {"png"}
    )  # `%matplotlib inline` does so in the first shell of a process only
    try:
        yield shell
    finally:
        _Shell.clear_instance()


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
