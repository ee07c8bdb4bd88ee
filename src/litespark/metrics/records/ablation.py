"""The record of `litespark bench ablation`: which settings were switched, and the steps measured with each of them.

What is measured for a list of switches follows from their names (`planned`), one variant for each combination.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from litespark.metrics.records.base import part, record
from litespark.metrics.records.step import StepRecord, VariantRecord

BASELINE = "baseline"
TARGET = "target"
# settings of how a training is computed; all others change what is trained, or how it is fed
_SPEED_KEYS = ("recompute.mode", "precision.name", "optim.fused")
_SPEED_GROUPS = ("ops.", "precision.fp8.")


def changes_speed_only(key: str) -> bool:
    """Whether a dotted key of the config may be switched: it changes how fast a training runs, and not which one."""
    return key in _SPEED_KEYS or key.startswith(_SPEED_GROUPS)


def default_name(key: str) -> str:
    """What a switch of one key is called: `rope` for ops.rope, `recompute` for recompute.mode."""
    group, _, leaf = key.rpartition(".")
    return group if leaf in ("mode", "name") else leaf


@part
class KeyRecord:
    """One setting of a switch, its two values as they are written in an override."""

    key: str
    baseline: str
    target: str


@part
class SwitchRecord:
    """One setting, or several that are switched together."""

    name: str
    keys: Annotated[list[KeyRecord], Field(min_length=1)]


@dataclass(frozen=True)
class Planned:
    """One combination: the name of its variant, and the switches that have their target's value in it."""

    name: str
    on: frozenset[str]


def planned(switches: Sequence[str]) -> list[Planned]:
    """What is measured for these switches, in the order in which it is.

    The baseline; one switch more each time (`plus_NAME`) up to the target; the target without each one
    (`without_NAME`). The target without the last switch is the step before the target, and is not listed again.
    """
    names = list(switches)
    steps = [Planned(f"plus_{name}", frozenset(names[: index + 1])) for index, name in enumerate(names[:-1])]
    without = [Planned(f"without_{name}", frozenset(names) - {name}) for name in names[:-1]]
    return [Planned(BASELINE, frozenset()), *steps, Planned(TARGET, frozenset(names)), *without]


def settings_of(switches: Sequence[SwitchRecord], on: frozenset[str]) -> tuple[str, ...]:
    """The overrides that make a combination from the baseline: every key of every switch."""
    return tuple(
        f"{key.key}={key.target if switch.name in on else key.baseline}" for switch in switches for key in switch.keys
    )


@record
class AblationRecord(StepRecord):
    """One ablation on one device: `switches` in the order in which they are switched on.

    `baseline` and `target` are the overrides that make the two from the benchmark's config.
    """

    baseline: list[str] = field(kw_only=True)
    target: list[str] = field(kw_only=True)
    switches: Annotated[list[SwitchRecord], Field(min_length=1)] = field(kw_only=True)
    schema: Literal["litespark.bench.ablation/2"] = field(  # type: ignore[assignment]
        default="litespark.bench.ablation/2", kw_only=True
    )

    def asked(self) -> tuple[object, ...]:
        return (*super().asked(), self.switches)

    @property
    def names(self) -> list[str]:
        return [switch.name for switch in self.switches]

    def combination(self, on: frozenset[str]) -> VariantRecord:
        """The variant in which exactly these switches are on; KeyError where it is not part of the ablation."""
        name = {plan.on: plan.name for plan in planned(self.names)}[on]
        return next(plan for plan in self.variants if plan.name == name)
