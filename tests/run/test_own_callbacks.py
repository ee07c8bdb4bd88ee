"""`callbacks.extra`: which classes are taken, what is said of those that are not, and that they run and are resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from litespark.cli import main
from litespark.reports.runs import load_run
from litespark.run.checkout import repository
from litespark.run.targets import ALLOWED_VARIABLE, ConfigError, allowed_prefixes
from tests.run.composed import SMALL, parts

ROOT = Path(__file__).parents[2]

PACKAGE = '''
import sys
from pathlib import Path

from lightning.pytorch import Callback


class Hello(Callback):
    """Writes a line a step, and counts them through a resume."""

    def __init__(self, mark, word="hello"):
        self.mark, self.word, self.steps = Path(mark), word, 0

    @property
    def state_key(self):
        return f"Hello.{self.word}"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps += 1
        with self.mark.open("a") as file:
            file.write(f"{self.word} {self.steps}\\n")

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


class Keeper(Callback):
    """Keeps what no checkpoint takes."""

    def state_dict(self):
        return {"where": Path("x")}


class Ends(Callback):
    """Logs by Lightning's own means, and ends the training or the process after step 51."""

    def __init__(self, process):
        self.process = process

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("mine/half", trainer.global_step / 2)
        pl_module.log("mine/nothing", float("nan"))
        if trainer.global_step == 51:
            if self.process:
                sys.exit(3)
            trainer.should_stop = True


class Plain:
    pass


def function():
    raise AssertionError("called")
'''


@pytest.fixture
def mypkg(package, tmp_path):
    (package / "mine.py").write_text(PACKAGE)
    (package / "broken.py").write_text("def (:\n")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mypkg.nowhere.Hello", r"mypkg\.nowhere cannot be imported \(ModuleNotFoundError: .*pip install -e"),
        ("mypkg.broken.X", r"mypkg\.broken cannot be imported \(SyntaxError"),
        ("mypkg.mine.Helo", r"mypkg\.mine has no Helo; it has Hello"),
        ("mypkg.mine.function", "it is a function; name a class"),
        ("mypkg.mine.Path", "it is defined in pathlib"),
        ("mypkg.mine.Plain", r"expected a subclass of lightning\.pytorch\.Callback"),
        ("mypkg.mine.Hello", r"callbacks\.extra\.x: missing a required argument: 'mark'; Hello takes \(mark"),
        ("mypkg.__main__.X", r"expected a class below mypkg\.; a config may not call"),
        ("otherpkg.mine.Hello", r"expected a class below mypkg\.; .*allowed_targets = "),
    ],
)
def test_a_class_that_cannot_be_taken_is_named_with_the_reason(target, message, mypkg):
    with pytest.raises(ConfigError, match=message):
        parts(f"callbacks.extra.x._target_={target}")


def test_hydras_other_words_and_ours_that_are_no_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a _target_ and its arguments by name only"):
        parts("+optim._partial_=true")
    with pytest.raises(ConfigError, match=r"got the target .*what is ours needs none; set its kind"):
        parts(f"callbacks.extra.x={{_target_:litespark.callbacks.metrics_logger.MetricsLogger,folder:{tmp_path}}}")


def test_one_that_is_null_is_left_out(mypkg):
    one = "callbacks.extra.a={_target_:mypkg.mine.Hello,mark:mark}"
    assert list(parts(one, "callbacks.extra.gone=null").callbacks.extra) == ["a"]


def test_the_list_of_the_project_is_read_beside_train_py_only(tmp_path, monkeypatch):
    monkeypatch.delenv(ALLOWED_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.litespark]\nallowed_targets = ["mypkg"]\n')
    assert repository() == ROOT
    assert allowed_prefixes() == ()
    (tmp_path / "train.py").touch()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.yaml").touch()
    assert allowed_prefixes() == ("mypkg.",)
    (tmp_path / "pyproject.toml").write_text('[tool.litespark]\nallowed_targets = "os."\n')
    with pytest.raises(ConfigError, match=r"(?s)pyproject.toml: .*valid list.*allowed_targets to a list"):
        allowed_prefixes()


def test_callbacks_of_a_file_run_through_train_py_and_go_on_in_a_resume(mypkg, capfd):
    """The package lies outside of the project; its config file does too."""
    (mypkg / "configs" / "callbacks").mkdir(parents=True)
    (mypkg / "configs" / "callbacks" / "mine.yaml").write_text(
        "defaults: [default, _self_]\nextra:\n"
        f"  one: {{_target_: mypkg.mine.Hello, mark: {mypkg}/mark}}\n"
        f"  two: {{_target_: mypkg.mine.Hello, mark: {mypkg}/mark, word: again}}\n"
        "  keeper: {_target_: mypkg.mine.Keeper}\n"
    )
    words = [f"--config-dir={mypkg}/configs", *SMALL, "callbacks=mine", f"paths.logs={mypkg}/logs"]
    assert main(["train", *words, "budget.steps=2"]) == 0
    assert "the state of Keeper is not saved" in "".join(capfd.readouterr())
    assert (mypkg / "mark").read_text().splitlines() == ["hello 1", "again 1", "hello 2", "again 2"]
    assert main(["train", *words, "budget.steps=3", f"resume={mypkg}/logs/runs/small"]) == 0
    assert (mypkg / "mark").read_text().splitlines()[4:] == ["hello 3", "again 3"]


@pytest.mark.parametrize(
    ("process", "code", "status", "saved"), [(False, 0, "finished", [40, 51]), (True, 130, "interrupted", [40])]
)
def test_a_callback_that_logs_and_ends_the_training_or_the_process_leaves_a_run(mypkg, process, code, status, saved):
    """Lightning logs every 50 steps, by the batch's number, with NaN too."""
    own = [f"+callbacks.extra.ends={{_target_: mypkg.mine.Ends, process: {process}}}"]
    own += ["callbacks.checkpoint_every=40", "callbacks.checkpoint_keep=9"]
    assert main(["train", *SMALL, *own, f"paths.logs={mypkg}/logs", "budget.steps=90"]) == code
    run = load_run(mypkg / "logs" / "runs" / "small")
    assert run.record.status == status
    assert run.series("mine/half").to_dict().items() >= {50 * 16: 25.0}.items()
    assert "mine/nothing" not in run.metrics
    assert sorted(path.name for path in run.folder.glob("checkpoints/step-*")) == [f"step-{step:08d}" for step in saved]


def test_a_report_that_fails_leaves_a_finished_run(mypkg, monkeypatch, capfd):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("litespark.reports.report.write_report", full)
    words = [*(word for word in SMALL if "report" not in word), f"paths.logs={mypkg}/logs"]
    assert main(["train", *words, "budget.steps=2"]) == 0
    assert load_run(mypkg / "logs" / "runs" / "small").record.status == "finished"
    assert "no report: [Errno 28] No space left on device" in "".join(capfd.readouterr())
