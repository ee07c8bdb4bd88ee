"""How a run is started, continued and left alone; the process itself is not started."""

from dataclasses import replace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.benchmarks.child_process import PYTHON, Ended
from litespark.benchmarks.training import launch as module
from litespark.benchmarks.training.launch import Training, tidy, train
from tests.metrics.records.hand_made import make_record
from tests.metrics.training_records import to_target


@pytest.fixture
def started(monkeypatch):
    """The words of every run that was started, and what it was given."""
    found = []
    monkeypatch.setattr(module, "can_resume", lambda folder: (folder / "saved").exists())
    monkeypatch.setattr(module, "run", lambda command, printed, **named: (found.append((command, named)), DONE)[1])
    return found


DONE = Ended("finished")


@pytest.mark.parametrize("name", ["logs", "logs (a, b)"])
def test_a_run_is_started_with_its_name_and_continued_from_its_folder(started, tmp_path, name):
    training = Training(tmp_path / "train.py", ("seed=1",), tmp_path / name, "run", 2.5)
    assert train(training) == DONE
    (training.folder / "saved").mkdir(parents=True)
    assert train(training) == DONE
    (first, given), (second, _) = started
    assert first[: len(PYTHON) + 1] == [*PYTHON, str(tmp_path / "train.py")]
    assert given == {"seconds": 2.5, "grace": 120.0}
    for command, last in ((first, "run"), (second, str(training.folder))):
        words = OverridesParser.create().parse_overrides(command[len(PYTHON) + 1 :])
        assert [word.value() for word in words] == [1, str(tmp_path / name), last]
    assert [command[-1].partition("=")[0] for command in (first, second)] == ["name", "resume"]


def test_what_cannot_be_continued_begins_anew(started, tmp_path):
    training = Training(tmp_path / "train.py", (), tmp_path, "run")
    (training.folder / "half").mkdir(parents=True)
    train(training)
    assert not training.folder.exists()


def test_a_finished_run_is_not_started_again(started, tmp_path):
    training = Training(tmp_path / "train.py", (), tmp_path, "run")
    training.folder.mkdir(parents=True)
    for status, count in (("finished", 0), ("running", 1)):
        make_record(status=status).write(training.folder / "run.json")
        assert train(training) == DONE
        assert len(started) == count


def test_only_the_state_of_a_run_is_removed(tmp_path):
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "run.json").touch()
    for _ in range(2):
        tidy(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_seed_comes_after_what_the_benchmark_was_given_and_other_code_is_another_run(tmp_path):
    origin = to_target().provenance

    def run(of):
        return Training.of(of, "muon", 2, ["optim=adamw", "seed=5", "optim=muon"], script=tmp_path, logs=tmp_path)

    training = run(origin)
    assert training.overrides[:4] == ("optim=adamw", "seed=5", "optim=muon", "seed=2")
    assert "callbacks.checkpoint_at_end=false" in training.overrides
    assert training.name.startswith("muon-2-")
    assert run(replace(origin, source_hash="other")).name != training.name == run(origin).name
