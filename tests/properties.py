"""Hypothesis, as tests import it; where it is not installed, as on a GPU machine, its tests are skipped, others run."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["HealthCheck", "Phase", "given", "settings", "st"]

try:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    settings.register_profile("the same examples each time", derandomize=True, database=None)
    settings.load_profile("the same examples each time")
except ImportError:

    class _Anything:
        """Takes every call and attribute that builds strategies and settings."""

        def __call__(self, *values: Any, **named: Any) -> Any:
            return self

        def __getattr__(self, name: str) -> Any:
            return self

        def __or__(self, other: object) -> Any:
            return self

    def given(*strategies: Any, **named: Any) -> Any:
        return pytest.mark.skip(reason="needs hypothesis")

    def settings(*values: Any, **named: Any) -> Any:
        return lambda test: test

    HealthCheck = Phase = st = _Anything()  # type: ignore[assignment,misc]
