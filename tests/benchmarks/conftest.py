"""What whole-step benchmarks measure of the code and the device, at once and whatever happens beside the tests."""

import pytest

from litespark.benchmarks.step import begin
from litespark.metrics.records.step import RatesRecord
from litespark.run import new_run


@pytest.fixture
def at_once(monkeypatch):
    """One state of the code; rates that are set and not measured."""
    monkeypatch.setattr(new_run, "source_hash", lambda *folders: "0123456789abcdef")
    monkeypatch.setattr(begin, "measured_rates", lambda *given, **named: RatesRecord(1e15, 1e14, 1e15))
