"""The command line: what it offers, what it refuses and how, and the commands on a trained run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from litespark.cli import COMMANDS, main
from litespark.run.checkout import repository
from tests.cli.tiny_run import tiny
from tests.warm_processes import run_ranks, train_py

REPOSITORY = Path(__file__).resolve().parents[2]


def refused(capsys, *arguments: str) -> str:
    """What a command that fails says on stderr; it has to be short and no traceback."""
    assert main(list(arguments)) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 8
    return said


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert {"train", "prepare", "report", "export", "generate", "verify-resume", "kernels", "verify"} < set(COMMANDS)
    assert all(f"\n  {name} " in said for name in COMMANDS if not name.startswith("bench "))
    assert main(["bench"]) == 2
    said = capsys.readouterr().out
    assert all(f"\n  {name.removeprefix('bench ')} " in said for name in COMMANDS if name.startswith("bench "))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_shortly(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert " ".join(COMMANDS[name].help.split()) in " ".join(said.split())
    assert all(option.hidden or option.help in " ".join(said.split()) for option in COMMANDS[name].params[1:])
    assert len(said.splitlines()) < 40


def test_help_needs_no_heavy_import():
    blocked = "import sys\nfor name in ('torch', 'lightning', 'hydra', 'pandas'): sys.modules[name] = None\n"
    code = blocked + "from litespark.cli import main\nsys.exit(main(['--help']))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["verify-resume", "--steps", "0"], "'--steps': got 0, expected a whole number of at least 1"),
        (["bench", "profile", "--steps", "x"], "'--steps': got 'x', expected a whole number"),
        (["generate", "logs/runs/a"], "Missing option '--prompt'"),
        (["report", "a", "--colour"], "--colour"),
        (["bench", "everything"], "'everything'"),
        (["everything"], "'everything'"),
    ],
)
def test_words_that_a_command_does_not_take_are_one_line_and_a_usage_error(words, complaint, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert words == ["everything"] or f"{words[0]}" in said
    assert "--help shows what it takes" in said
    assert len(said.strip().splitlines()) == 1


def test_configs_come_from_the_current_folder_before_the_checkout_and_have_to_be_somewhere(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert repository() == REPOSITORY
    with monkeypatch.context() as patch:
        patch.setattr("litespark.run.checkout.__file__", str(tmp_path / "a/b/c/checkout.py"))
        for command in ("prepare", "train"):
            assert "change into a clone" in refused(capsys, command)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").write_text("")
    (tmp_path / "train.py").write_text("")
    assert repository() == tmp_path


def test_train_makes_the_run_that_train_py_makes(house):
    """The same overrides, in a process of its own."""
    run_ranks(1, train_py, *tiny(house, name="script", seed=1, callbacks__checkpoint_every=2, precision="fp32"))
    runs = house / "logs" / "runs"
    one, other = (json.loads((runs / name / "run.json").read_text())["quality"] for name in ("first", "script"))
    shutil.rmtree(runs / "script")
    assert (one["validation_loss"], one["sample"]) == (other["validation_loss"], other["sample"])


def test_train_sweeps_and_fails_when_a_job_fails(tmp_path, house, capsys):
    overrides = tiny(house, paths__logs=tmp_path / "logs", optim__lr="1e-3,-1")
    assert main(["train", "-m", *overrides]) == 1
    records = [json.loads(path.read_text()) for path in (tmp_path / "logs" / "runs").glob("*/run.json")]
    assert [record["status"] for record in records] == ["finished"]
    assert "optim.lr" in capsys.readouterr().err


def test_train_and_prepare_end_with_1_on_what_they_refuse(house, tmp_path, capsys):
    assert "nonsense" in refused(capsys, "train", "nonsense=1")
    assert "optim.lr: got -1" in refused(capsys, "train", *tiny(house, optim__lr=-1))
    assert "nothing to prepare" in refused(capsys, "prepare", "data=synthetic")
    assert "nosuchkey" in refused(capsys, "prepare", "data.nosuchkey=1")
    assert "/no/such/text" in refused(capsys, "prepare", "data.source=/no/such/text", f"paths.data={tmp_path}")
    assert "takes no overrides" in refused(capsys, "prepare", "--check", str(tmp_path), "seed=1")


def test_prepare_finds_the_data_and_says_what_is_there(house, capsys):
    assert main(["prepare", *tiny(house)]) == 0
    said = capsys.readouterr().out
    (folder,) = (house / "data" / "prepared").glob("text-*")
    assert said.startswith(f"{folder}\n")
    counts = json.loads((folder / "manifest.json").read_text())["splits"]["train"]["domains"]["text"]
    lines = [line.split() for line in said.splitlines()]
    expected = ["train", "text", f"{counts['documents']:,}", f"{counts['tokens']:,}", "100", "%"]
    assert expected in [words[: len(expected)] for words in lines]
    assert "No documents were dropped." in said


def test_prepare_check_finds_a_fault(house, tmp_path, capsys):
    (prepared,) = (house / "data" / "prepared").glob("text-*")
    folder = shutil.copytree(prepared, tmp_path / "copy")
    assert main(["prepare", "--check", str(folder)]) == 0
    assert "sound" in capsys.readouterr().out
    for name, change, complaint in (
        ("train/text/chunk-0-0.bin", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "SHA-256"),
        ("validation/text/chunk-0-0.bin", lambda data: data[:-2], "bytes; the manifest says"),
        ("tokenizer.json", lambda data: data.replace(b'"merges": [', b'"merges": [ ["q", "z"], ', 1), "token"),
        ("manifest.json", lambda data: data[:50], "not a manifest"),
    ):
        data = (folder / name).read_bytes()
        assert change(data) != data
        (folder / name).write_bytes(change(data))
        assert complaint in refused(capsys, "prepare", "--check", str(folder))
        (folder / name).write_bytes(data)


def test_a_report_lies_in_its_run_and_of_several_beside_them_or_where_asked(house, tmp_path, capsys):
    runs = house / "logs" / "runs"
    first, second, side = runs / "first", runs / "second", tmp_path / "side"
    for words, report, expected in (
        ([first], first / "report.md", ["# first"]),
        ([first, second], runs / "comparison.md", ["first", "second"]),
        ([runs, "--output", side], side / "comparison.md", ["first", "second"]),
    ):
        assert main(["report", *map(str, words)]) == 0
        assert capsys.readouterr().out.strip() == str(report)
        assert all(each in report.read_text() for each in expected)
    (tmp_path / "none").mkdir()
    assert "no run at or below" in refused(capsys, "report", str(tmp_path / "none"))
