"""Every command of README, CONTRIBUTING and docs: it composes into parts, its options exist, and the slow tests run it.

What stands for something of the reader's (FOLDER, NAME, …) is replaced by a text, a run or a prepared folder. A command
that needs a GPU, another machine or hours says so behind its #, and is composed only.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from litespark.cli import COMMANDS, main
from litespark.run.composing import compose
from litespark.run.config import parts_from
from tests.cli.tiny_run import tiny

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]
COMMAND = re.compile(r"(python train\.py|torchrun|litespark|make)(\s|$)")
MARK = re.compile(r"\b(GPUs?|machines?|nodes?|hours|bucket|minutes)\b")
# long, and run at small sizes by tests of their own
NOT_RUN = ("make", "litespark bench", "litespark verify")
# Hydra's own, which compose does not take
FLAGS = {"-m", "--multirun"}


def commands(document: str) -> list[tuple[str, str]]:
    """(command, what stands behind its #) of the fenced blocks; lines that end in a backslash are one."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / document).read_text(), flags=re.DOTALL | re.MULTILINE)
    found = []
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        command, _, comment = line.partition(" #")
        if COMMAND.match(command):
            found.append((" ".join(command.split()), comment.strip()))
    return found


ALL = [
    pytest.param(command, comment, id=f"{document}: {command}")
    for document in DOCUMENTS
    for command, comment in commands(document)
]


@pytest.fixture(scope="module")
def exported(house, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "llama"
    assert main(["export", str(house / "logs" / "runs" / "first"), str(folder)]) == 0
    return folder


@pytest.fixture
def words_of(house, exported, tmp_path):
    """A command's words, with what stands for something of the reader's replaced."""
    (manifest,) = (house / "data").rglob("manifest.json")

    def words(command: str) -> list[str]:
        folder = exported if "model.path=" in command else house / "text.txt"
        if command.startswith("litespark export"):
            folder = tmp_path / "exported"
        values = {
            "data/prepared/NAME": manifest.parent,
            "logs/runs/NAME": house / "logs" / "runs" / "first",
            "logs/runs": house / "logs" / "runs",
            "FOLDER_OR_FILE": folder,
            "FOLDER_OR_RUN": folder,
            "FOLDER": folder,
            "BUCKET": "bucket",
        }
        # in one pass: a value may hold what stands for another
        command = re.sub("|".join(values), lambda placeholder: str(values[placeholder[0]]), command)
        found = [word for word in shlex.split(command) if "…" not in word]
        return found

    return words


def jobs(overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a sweep."""
    values = []
    for word in overrides:
        key, _, value = word.partition("=")
        values.append([f"{key}={each}" for each in value.split(",")])
    return [list(each) for each in itertools.product(*values)]


def overrides_of(words: list[str]) -> list[str]:
    """The overrides of a command; its own options are parsed, and have to be there."""
    if words[0] == "torchrun":
        from torch.distributed.run import parse_args

        script = parse_args(words[1:])
        assert Path(script.training_script).name == "train.py"
        return script.training_script_args
    if words[0] == "python":
        return words[2:]
    length = 2 if words[1] == "bench" else 1
    command = COMMANDS[" ".join(words[1 : 1 + length])]
    context = command.make_context(words[1], list(words[1 + length :]))
    return context.params.get("overrides") or []


@pytest.mark.parametrize(("command", "comment"), ALL)
def test_a_documented_command_is_understood(command, comment, words_of):
    words = words_of(command)
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", "PYTHON=python3", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return
    overrides = overrides_of(words)
    sweep = bool(FLAGS & set(overrides))
    overrides = [word for word in overrides if word not in FLAGS]
    for each in jobs(overrides) if sweep else [overrides]:
        if each:
            parts_from(compose(each))


def test_there_are_commands_of_each_kind():
    found = [param.values[0] for param in ALL]
    assert {"make train", "make test", "python train.py"} <= set(found)
    assert len(found) > 30


RUNS = [
    param
    for param in ALL
    if not MARK.search(param.values[1])
    and not param.values[0].startswith(("make", "litespark bench", "litespark prov"))
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "comment"), RUNS)
def test_a_documented_command_runs(command, comment, words_of, house, tmp_path):
    """With further overrides that make it small."""
    words = words_of(command)
    overrides = words[1:] if words[0] == "litespark" else words[2:]
    small = tiny(tmp_path)
    if words[:2] == ["litespark", "generate"]:
        small = ["--tokens", "2"]
    elif (words[0] == "litespark" and words[1] != "prepare") or "--check" in words:
        small = []
    elif any(word.startswith("resume=") for word in words):
        run = shutil.copytree(house / "logs" / "runs" / "first", tmp_path / "logs" / "runs" / "first")
        words = [f"resume={run}" if word.startswith("resume=") else word for word in words]
        small = tiny(house, seed=1, callbacks__checkpoint_every=2, budget__steps=6, paths__logs=tmp_path / "logs")
    elif "-m" in words:
        small = [word for word in small if word.split("=")[0] not in {each.split("=")[0] for each in overrides}]
    if "model=huggingface" in words:  # whose sizes are those of the folder
        small = [word for word in small if not word.startswith("model.")]
    if words[0] in ("python", "torchrun"):
        program = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "torch.distributed.run"]
        line = [*program, *words[1:], *small]
    else:
        line = [sys.executable, "-m", "litespark.cli", *words[1:], *small]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)  # set for the tests of ops; a reader has it not
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
