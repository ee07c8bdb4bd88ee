"""Projections follow from measured rates and stated settings, and from nothing else."""

from dataclasses import asdict

import pytest

from litespark.metrics.projection import project
from litespark.run.record import ProjectionRecord, ProjectionSettings


def test_the_arithmetic_of_a_full_projection():
    settings = ProjectionSettings(price_per_kwh=0.2, grid_kg_per_kwh=0.4, pue=1.5)
    projection = project(10**9, tokens_per_second=1000.0, joules_per_token=0.36, settings=settings, currency="EUR")
    expected = ProjectionRecord(10**9, 1e6 / 3600, 100.0, 30.0, "EUR", 60.0, settings)
    assert asdict(projection) | {"settings": None} == pytest.approx(asdict(expected) | {"settings": None})


@pytest.mark.parametrize(
    ("settings", "cost", "co2e"),
    [
        (ProjectionSettings(), None, None),
        (ProjectionSettings(price_per_kwh=0.2), None, None),  # no PUE: no guess that it is 1
        (ProjectionSettings(price_per_kwh=0.2, pue=1.0), 20.0, None),
        (ProjectionSettings(grid_kg_per_kwh=0.0, pue=1.0), None, 0.0),
    ],
)
def test_what_depends_on_an_unstated_setting_is_none(settings, cost, co2e):
    projection = project(10**9, tokens_per_second=1.0, joules_per_token=0.36, settings=settings)
    assert projection.kwh == pytest.approx(100.0)
    assert projection.cost == (None if cost is None else pytest.approx(cost))
    assert projection.co2e_kg == co2e


def test_unmeasured_rates_or_no_target_give_none():
    settings = ProjectionSettings(0.2, 0.4, 1.1)
    projection = project(10, tokens_per_second=None, joules_per_token=float("nan"), settings=settings)
    assert (projection.hours, projection.kwh, projection.cost, projection.co2e_kg) == (None, None, None, None)
    assert project(None, tokens_per_second=1.0, joules_per_token=1.0, settings=settings).hours is None
