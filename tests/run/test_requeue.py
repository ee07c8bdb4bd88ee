"""A job of SLURM that was told that its time is over is queued again where its command line continues it."""

import re

import pytest

from litespark.run.requeue import requeue

SLURM = {"SLURM_JOB_ID": "7"}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What scontrol is asked; it fails for job 13."""
    log, scontrol = tmp_path / "asked", tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {log}\n[ "$2" != 13 ] || {{ echo "no such job" >&2; exit 1; }}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("continues", "environment", "expected", "said"),
    [
        (True, SLURM, ["requeue 7"], "job 7 is queued again"),
        (True, SLURM | {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, ["requeue 5_2"],
         "job 5_2 is queued again"),
        (False, SLURM, [], "job 7 is not queued again: it would start anew; give it name=NAME resume=auto"),
        (True, {"SLURM_JOB_ID": "13"}, ["requeue 13"], "no such job.*hand: scontrol requeue 13"),
        (True, {}, [], None),
    ],
)  # fmt: skip
def test_it_is_queued_again_only_where_it_would_continue(asked, caplog, continues, environment, expected, said):
    requeue(continues=continues, environment=environment)
    assert asked() == expected
    assert (caplog.text == "") if said is None else re.search(said, caplog.text)
