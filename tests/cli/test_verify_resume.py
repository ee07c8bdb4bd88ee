"""`litespark verify-resume`: passes on a sound run, and every planted difference is found."""

from pathlib import Path

import pytest
import torch

from litespark.child_process import Ended, run
from litespark.cli import main
from litespark.mesh import Mesh
from litespark.run import verify_resume as module
from litespark.run.verify_resume import RunFailedError, compare, verify_resume
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.checkpoint.keep import Keep
from litespark.training.checkpoint.state import read_whole, write
from tests.cli.tiny_run import tiny
from tests.end_to_end.runs import train

REPOSITORY = Path(__file__).resolve().parents[2]


def changed(tree: dict, path: list, change) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = change(tree[path[-1]])


def nudge(tensor: torch.Tensor) -> torch.Tensor:
    """One value of it moved to the next float."""
    moved = tensor.clone()
    first = moved.view(-1)[:1]
    moved.view(-1)[:1] = torch.nextafter(first, torch.full_like(first, torch.inf))
    return moved


PLANTED = {
    "one bit of a weight": (["state_dict", "model.norm.weight"], nudge, "weights: model.norm.weight: 1 of 32"),
    "a moment": (
        ["optimizer_states", 0, "state", "norm.weight", "exp_avg"],
        nudge,
        "optimizer state: 0.state.norm",
    ),
    "tokens": (["litespark", "tokens_seen"], lambda n: n + 1, "counters: tokens_seen: undisturbed 512, resumed 513"),
    "position": (["TokenDataModule", "sequences"], lambda n: n - 4, "data position: TokenDataModule.sequences"),
    "random numbers": (["litespark", "random", 0, "python", 1], lambda n: n ^ 1, "random state: 0.python.1"),
    "a weight that is gone": (
        ["state_dict"],
        lambda weights: dict(list(weights.items())[1:]),
        "only in the undisturbed",
    ),
}


@pytest.mark.parametrize("path, change, complaint", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_difference_is_found(run, tmp_path, path, change, complaint):
    sound = checkpoint_folder.find(run)
    assert compare(sound, sound)[1] is None
    state = read_whole(sound)
    changed(state, path, change)
    _, difference = compare(sound, checkpoint_folder.read(write(Mesh(), tmp_path, 4, state, sound.about, keep=Keep(1))))
    assert complaint in difference


@pytest.mark.parametrize(
    ("part", "where"),
    [("weights", "w"), ("scales of fp8", "scaling.scale"), ("moves of fp8", "policy.layers.down.rest"), (None, None)],
)
def test_scales_and_moves_of_fp8_are_compared_and_not_a_number_is_the_same_as_itself(tmp_path, part, where):
    checkpoints = []
    for name, moved in (("undisturbed", 0.0), ("resumed", 1.0)):
        scale, weight, rest = torch.ones(3), torch.tensor([1.0, torch.nan]), torch.ones(1)
        values = {"weights": weight, "scales of fp8": scale, "moves of fp8": rest}
        if part is not None:
            values[part][0] += moved
        state = {"state_dict": {"w": weight}, "optimizer_states": [{"state": {}}], "global_step": 1}
        state["callbacks"] = {"Fp8Monitor": {"policy": {"layers": {"down": {"rest": rest}}}}}
        state["litespark"] = {"random": [], "fp8": {"scaling": {"scale": scale}}}
        checkpoints.append(checkpoint_folder.read(write(Mesh(), tmp_path / name, 1, state, {}, keep=Keep(1))))
    compared, difference = compare(*checkpoints)
    assert compared["scales of fp8"] == 1
    assert difference is part is None or difference.startswith(f"{part}: {where}: ")


def test_a_sound_config_passes_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    """The run that is killed is a process of its own, and those that are not are of this one."""

    def run_here(command, printed, *, kill_when):
        if kill_when is not None:
            return run(command, printed, kill_when=kill_when)
        train(*command[2:])
        return Ended("finished")

    monkeypatch.setattr(module, "run", run_here)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    # what is measured for precision=auto is put in its place in this process alone
    words = tiny(tmp_path, precision="fp32")
    assert main(["verify-resume", *words, "--steps", "3", "--more", "30"]) == 0
    said = capsys.readouterr().out
    assert "resumed from step 3 to 33" in said
    assert "same bit for bit" in said
    assert list((tmp_path / "scratch").glob("litespark-verify-resume-*")) == []
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_two_processes_pass(tmp_path, capsys):
    assert main(["verify-resume", *tiny(tmp_path), "--steps", "3", "--more", "5", "--nproc", "2"]) == 0
    assert "same bit for bit" in capsys.readouterr().out


FORGETFUL = """
import sys
sys.path.insert(0, {root!r})
if any(word.startswith("resume=") for word in sys.argv):
    from litespark.training.module import TrainingModule
    TrainingModule.on_load_checkpoint = lambda self, checkpoint: None
import runpy
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_a_resume_that_forgets_its_counters_is_caught(tmp_path):
    """The learning rate starts over, so weights differ."""
    script = tmp_path / "train.py"
    script.write_text(FORGETFUL.format(root=str(REPOSITORY), script=str(REPOSITORY / "train.py")))
    verdict = verify_resume(script, tiny(tmp_path), steps=3, more=3)
    assert verdict.difference is not None
    assert "NOT the same" in str(verdict)


def test_a_run_that_fails_shows_its_last_lines(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import sys\nprint('no room on the disk\\nEnding')\nsys.exit(3)\n")
    with pytest.raises(RunFailedError, match=r"undisturbed run ended with status 3.*\n  no room on the disk\n  Ending"):
        verify_resume(script, [], steps=1, more=1)


@pytest.mark.parametrize("arguments, complaint", [(["resume=logs/runs/x"], "a new run"), (["optim.lr=-1"], "optim.lr")])
def test_bad_arguments_are_refused_before_a_process_starts(tmp_path, capsys, arguments, complaint):
    assert main(["verify-resume", *tiny(tmp_path), *arguments]) == 1
    assert complaint in capsys.readouterr().err
