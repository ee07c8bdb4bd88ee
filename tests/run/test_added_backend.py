"""The backend that CONTRIBUTING.md shows: its file, its line and its test pasted, then verified and trained with."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import litespark.ops.swiglu
from litespark.cli import main
from litespark.ops.backend import BACKENDS, Backend
from tests.pasted import shown_block, shown_files
from tests.run.composed import SMALL

CHOSEN = ["ops=reference", "ops.swiglu=recomputed"]


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The module of the backend, as if its file were in the folder of the op and its line in the table."""
    ((path, source),) = ((path, source) for path, source in shown_files().items() if path.startswith("src/"))
    assert Path(path).parent == Path("src/litespark/ops/swiglu")
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / Path(path).name).write_text(source)
    package = litespark.ops.swiglu
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "op")])
    name, function = re.fullmatch(r'"(\w+)": Backend\("(.*)"\),\n', shown_block("Its line, under")).groups()
    monkeypatch.setitem(BACKENDS, "swiglu", {**BACKENDS["swiglu"], name: Backend(function)})
    module = function.partition(":")[0]
    yield importlib.import_module(module)
    del sys.modules[module]


def test_its_test_passes(added):
    pasted: dict[str, Any] = {}
    exec(shown_files()["tests/ops/test_swiglu_recomputed.py"], pasted)
    test = pasted["test_outputs_and_gradients_equal_the_reference"]
    (dtypes,) = test.pytestmark
    for dtype in dtypes.args[1]:
        test(dtype)


def test_it_is_verified_and_trained_with(added, logs, tmp_path, capsys):
    assert main(["verify", *SMALL, *CHOSEN]) == 0
    assert "2 of 2 ops verified" in capsys.readouterr().out
    assert main(["train", *SMALL, *CHOSEN, logs]) == 0
    ops = json.loads((tmp_path / "logs" / "runs" / "small" / "run.json").read_text())["ops"]
    assert {op["op"]: op["used"] for op in ops}["swiglu"] == "recomputed"
