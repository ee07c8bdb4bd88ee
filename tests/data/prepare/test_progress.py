"""What a preparation tells in a log while it works."""

from __future__ import annotations

import time

import numpy as np

from litespark.data.prepare import progress
from litespark.data.prepare.progress import Display
from litespark.data.prepare.unit import METERS


def until_told(capsys, words):
    said = ""
    end = time.monotonic() + 100
    while words not in said and time.monotonic() < end:
        time.sleep(0.01)
        said += capsys.readouterr().err
    assert words in said


def test_a_log_tells_how_far_every_stage_is_also_within_a_unit(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    meters = np.zeros((1, len(METERS)), dtype=np.int64)
    with Display("Preparing x", show=True) as display:
        display.stage("tokenizer, its merges")
        until_told(capsys, "Preparing x: tokenizer, its merges, for 0 s")
        meters[0] = (7, 0, 10, 25)
        display.stage("documents", meters, [0], 100)
        until_told(capsys, "Preparing x: documents 25%  7 documents")
