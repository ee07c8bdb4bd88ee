"""Projections follow from measured rates and stated settings, and from nothing else."""

import pytest

from litespark.metrics.projection import project
from litespark.run.record import ProjectionSettings


def test_the_arithmetic_of_a_full_projection():
    projection = project(
        10**9,
        tokens_per_second=1000.0,
        joules_per_token=0.36,
        settings=ProjectionSettings(price_per_kwh=0.2, grid_kg_per_kwh=0.4, pue=1.5),
        currency="EUR",
    )
    assert projection.hours == pytest.approx(1e6 / 3600)
    assert projection.kwh == pytest.approx(100.0)
    assert projection.cost == pytest.approx(30.0)
    assert projection.co2e_kg == pytest.approx(60.0)
    assert projection.currency == "EUR"


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
