"""Runs of this folder are as short as those of the training tests, and as quiet; their clock is the test's."""

import time

import pytest

from tests.callbacks.fake_time import Clock
from tests.training.conftest import quiet

__all__ = ["quiet"]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock
