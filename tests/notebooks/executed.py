"""Runs a notebook from its first cell to its last, and reads what it showed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")
interactive = pytest.importorskip("IPython.core.interactiveshell")
capture = pytest.importorskip("IPython.utils.capture")
pylabtools = pytest.importorskip("IPython.core.pylabtools")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: object) -> tuple[str, int]:
    """The text and the number of pictures that `notebooks/{name}.py` shows, run by IPython in `folder`.

    Of the environment, None is a variable that is not set.
    """
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    for variable, value in environment.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, str(value))
    monkeypatch.chdir(folder)
    text, pictures = [], 0
    with _shell() as shell:
        for cell in jupytext.read(NOTEBOOKS / f"{name}.py").cells:
            if cell.cell_type != "code":
                continue
            with capture.capture_output() as shown:
                done = shell.run_cell(cell.source)
            text.append(shown.stdout)
            for output in shown.outputs:
                text.append(output.data.get("text/markdown") or output.data.get("text/plain", ""))
                pictures += "image/png" in output.data
            done.raise_error()
    return "\n".join(text), pictures


class _Shell(interactive.InteractiveShell):
    def enable_gui(self, gui: object = None) -> None:
        """There is none: pictures are shown in the outputs."""


@contextmanager
def _shell() -> Iterator[Any]:
    shell = _Shell.instance()
    shell.history_manager.enabled = False
    # `%matplotlib inline` does so in the first shell of a process only
    pylabtools.select_figure_formats(shell, {"png"})
    try:
        yield shell
    finally:
        _Shell.clear_instance()
