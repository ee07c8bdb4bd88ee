"""A process of a measurement answers, is told its cores, and is named with its last words where it fails."""

import subprocess
import sys
import time

import pytest

from litespark.benchmarks.data.launch import launch
from litespark.benchmarks.data.process import cores, use_cores


def program(code):
    return (sys.executable, "-c", f"import json, os, sys, time; asked = json.load(open(sys.argv[1])); {code}")


def test_the_answer_is_read_and_the_cores_are_told(tmp_path):
    answer = "json.dump([asked, os.environ['RAYON_NUM_THREADS']], open(sys.argv[2], 'w'))"
    asked, threads = launch({"a": 1}, tmp_path / "deep", cores=3, timeout=60, program=program(answer))
    assert (asked, threads) == ({"a": 1, "cores": 3}, "3")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('no such corpus')", "the measurement ended with status 1: no such corpus"),
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("print('nothing to say')", "ended with status 0: nothing to say"),
    ],
)
def test_a_process_without_an_answer_is_an_error_with_its_last_words(tmp_path, code, message):
    (tmp_path / "answer.json").write_text("{}")  # of an earlier measurement: must not be taken for this one's
    with pytest.raises(ValueError, match=message):
        launch({}, tmp_path, cores=1, timeout=60, program=program(code))


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"did not end within 0\.5 s; give fewer --megabytes"):
        launch({}, tmp_path, cores=1, timeout=0.5, program=program("time.sleep(300)"))
    assert time.monotonic() - began < 60


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_a_measurement_on_one_core_has_one():
    code = "from litespark.benchmarks.data.process import cores, use_cores; use_cores(1); print(cores())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "1"
    assert use_cores(cores()) is None
    assert cores() > 1
