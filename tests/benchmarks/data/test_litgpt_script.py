"""The script for the other interpreter: litgpt is played by a module that writes chunks as LitData does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from litespark.benchmarks.data.rounds import LITGPT_SCRIPT

PREPARE = """
import os
from pathlib import Path
import numpy as np

def prepare(input_dir, output_dir, tokenizer_path):
    assert (Path(input_dir).is_dir(), Path(tokenizer_path).is_dir()) == (True, True)
    # two documents: how many, where each begins and the last ends, then each with its size and ids
    ids = np.arange(os.cpu_count(), dtype=np.uint32)
    words = [2, 16, 20 + 4 * len(ids), 24 + 8 * len(ids), 4 * len(ids), *ids, 4 * len(ids), *ids]
    np.array(words, dtype=np.uint32).tofile(Path(output_dir) / "chunk-0-0.bin")
"""


@pytest.fixture
def pretend(tmp_path):
    """Folder with a `litgpt` and the metadata of it and of LitData."""
    folder = tmp_path / "installed"
    (folder / "litgpt" / "data").mkdir(parents=True)
    for package in (folder / "litgpt", folder / "litgpt" / "data"):
        (package / "__init__.py").touch()
    (folder / "litgpt" / "data" / "prepare_slimpajama.py").write_text(PREPARE)
    for name, version in (("litgpt", "9.9"), ("litdata", "8.8")):
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    return folder


def test_ids_are_counted_without_what_stands_between_them(tmp_path, pretend):
    for name in ("text", "tokenizer"):
        (tmp_path / name).mkdir()
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    asked = {name: str(tmp_path / place) for name, place in
             (("source", "text"), ("tokenizer", "tokenizer"), ("output", "made"))}  # fmt: skip
    request.write_text(json.dumps({**asked, "cores": 1}))
    subprocess.run(
        [sys.executable, str(LITGPT_SCRIPT), str(request), str(answer)],
        env={**os.environ, "PYTHONPATH": str(pretend)}, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(answer.read_text())
    assert found["tokens"] == 2  # one id in each of two documents: of as many cores as it was told of
    assert (found["version"], found["litdata"]) == ("9.9", "8.8")
    assert 0 < found["seconds"] < 100
    assert found["peak_bytes"] > 1_000_000
    assert np.fromfile(tmp_path / "made" / "chunk-0-0.bin", dtype=np.uint32).size == 8
