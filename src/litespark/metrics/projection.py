"""From measured rates to a token target: hours, kWh, money and CO2e.

Price, grid intensity and PUE have no default: a guessed grid makes a precise-looking falsehood.
"""

from litespark.metrics.records.base import finite_or_none
from litespark.run.record import ProjectionRecord, ProjectionSettings

JOULES_PER_KWH = 3.6e6


def project(
    target_tokens: int | None,
    *,
    tokens_per_second: float | None,
    joules_per_token: float | None,
    settings: ProjectionSettings,
    currency: str | None = None,
) -> ProjectionRecord:
    """What the whole of ``target_tokens`` takes at the measured rates of all devices; without it nothing.

    ``kwh`` is what the metered devices use. Cost and CO2e are of the energy that the building draws, kWh × PUE, and
    need the PUE to be stated (1 where the meter sees all there is to pay).
    """
    if target_tokens is None:
        return ProjectionRecord(currency=currency, settings=settings)
    rate = finite_or_none(tokens_per_second)
    energy = finite_or_none(joules_per_token)
    hours = target_tokens / rate / 3600 if rate else None
    kwh = target_tokens * energy / JOULES_PER_KWH if energy is not None else None
    drawn = kwh * settings.pue if kwh is not None and settings.pue is not None else None
    return ProjectionRecord(
        target_tokens=target_tokens,
        hours=hours,
        kwh=kwh,
        cost=_times(drawn, settings.price_per_kwh),
        currency=currency,
        co2e_kg=_times(drawn, settings.grid_kg_per_kwh),
        settings=settings,
    )


def _times(energy: float | None, factor: float | None) -> float | None:
    return energy * factor if energy is not None and factor is not None else None
