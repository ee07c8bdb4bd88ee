"""How a run is started, continued and left alone; the process itself is not started."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.benchmarks.training import runs as module
from litespark.benchmarks.training.runs import Training, train
from litespark.child_process import PYTHON, Ended
from tests.metrics.records.hand_made import make_record


@pytest.fixture
def started(monkeypatch):
    """The words of every run that was started, and what it was given."""
    found = []
    monkeypatch.setattr(module, "can_resume", lambda folder: (folder / "saved").exists())
    monkeypatch.setattr(module, "run", lambda command, printed, **named: found.append((command, named)) or DONE)
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


def test_a_finished_run_is_not_started_again_and_what_cannot_be_continued_begins_anew(started, tmp_path):
    training = Training(tmp_path / "train.py", (), tmp_path, "run")
    training.folder.mkdir(parents=True)
    for status, count in (("finished", 0), ("running", 1)):
        make_record(status=status).write(training.folder / "run.json")
        assert train(training) == DONE
        assert len(started) == count
    assert not training.folder.exists()
