"""Every notebook is a source that jupytext pairs with an .ipynb file."""

from __future__ import annotations

import pytest

from tests.notebooks.executed import NOTEBOOKS, jupytext


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_is_paired_with_an_ipynb_file(path):
    notebook = jupytext.read(path)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}
