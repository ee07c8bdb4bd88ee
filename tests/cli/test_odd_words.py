"""Whatever stands on the command line: an exit code and a short message, never another exception or a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import litespark.run.train
from litespark.cli import COMMANDS, main
from litespark.run.config import parts_from
from tests.properties import HealthCheck, given, settings, st

ROOT = Path(__file__).parents[2]
# Hydra's own messages list the choices of a group, one a line
LONGEST = 24
WORDS = [
    *("", "=", "a=", "=b", "++x", "~x", "x@y=z", "+x@y=z", "~seed", "~optim.lr", "~precision.name", "--", "-", "---"),
    *("\udcff", "\udcff=1", "name=\udcff", "optim.lr=\udcff", "name=a\0b", "name=a\nb", "name=" + "a" * 5000, "a\tb=1"),
    *("name={", "name=]", "name='", "name=${", "name=${x}", "name=${name}", "name=${oc.env:NOPE_}", "name=${a:b}"),
    *("paths.logs=null", "paths.logs=[1]", "paths.logs={a:1}", "variant=1", "variant={label:[1]}", "variant={1:2}"),
    *("optim.betas=[[1],2]", "data.mixture={a:x}", "optim._target_=[a]", "+optim._args_=1", "model.rope_scaling=1"),
    *("optim=null", "optim=5", "data=", "experiment=null", "hydra=null", "paths=1", "seed=" + "9" * 5000, "-s"),
    *("seed=range(1,3)", "optim.lr=" + "9" * 400, "optim.betas[0]=1", "resume={a:1}", "model.hidden_size=１２"),
]


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(litespark.run.train, "train", lambda config: str(parts_from(config).seed))


def answer(words: list[str], capsys) -> None:
    try:
        status = main(words)
    except SystemExit as end:  # help
        status = end.code
    said = capsys.readouterr().err
    assert status in (0, 1, 2), said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= LONGEST, said


@pytest.mark.parametrize("word", WORDS, ids=[ascii(word)[:30] for word in WORDS])
def test_an_odd_word_for_train_is_one_message(capsys, tmp_path, monkeypatch, word):
    answer(["train", word], capsys)


def test_a_setting_of_another_choice_is_refused_where_it_is_given_and_left_out_of_a_file(capsys):
    assert main(["train", "+optim.momentum=0.5"]) == 1
    assert "optim.momentum: got 0.5, but kind adamw of optim has no such setting" in capsys.readouterr().err
    assert main(["train", "optim.lr=0.1"]) == 0


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["", *(name for name in COMMANDS if name not in ("train", "kernels", "results"))]),
    st.lists(st.text(st.characters(codec=None, categories=None), max_size=20), max_size=3),
    st.sampled_from(["--", "--steps", "--rounds", "--minutes=", "--top-p", "--seed", "-x", "--output", "--variant"]),
)
def test_any_words_behind_any_command_are_refused_or_explained(capsys, name, words, option):
    """The option stands last, without its value or unknown: none of these starts anything."""
    answer([*name.split(), *words, "--no-such-option", option], capsys)


@pytest.mark.parametrize(
    "encoding", [{"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"COLUMNS": "0"}]
)
def test_a_terminal_of_another_kind_is_written_to(tmp_path, encoding):
    """Help and errors hold characters and the user's own words that such a terminal does not have."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **encoding}
    commands = "(['--help'], sys.argv[1:], ['generate', '--help'])"
    code = f"import sys; from litespark.cli import main; sys.exit([main(words) for words in {commands}] != [0, 1, 0])"
    words = ["report", b"no \xff\xe2\x80\x93 folder"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"rror" not in done.stderr


def test_a_reader_that_leaves_early_is_no_traceback():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    code = "import sys, os, time; os.close(0); from litespark.cli import main; sys.exit(main(['prepare', '--help']))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=gone, stderr=subprocess.PIPE, env=environment, check=False, timeout=60
        )
    assert done.stderr == b""
