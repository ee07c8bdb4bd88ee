"""`litespark bench ablation` from start to end: its combinations of switches, measured as variants of whole steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from litespark.benchmarks.ablation.switches import switches_between
from litespark.benchmarks.session import begin
from litespark.benchmarks.step.begin import Decided, StepSettings, decide, described
from litespark.benchmarks.step.session import Surroundings, measure, processes, step_path
from litespark.benchmarks.step.variants import Variant, litespark_variant
from litespark.metrics.records.ablation import AblationRecord, SwitchRecord, planned, settings_of
from litespark.run.compose import compose_parts
from litespark.run.config import ConfigError, Parts, differences

WHAT = "bench-ablation"


def bench_ablation(
    overrides: Sequence[str],
    *,
    baseline: Sequence[str],
    target: Sequence[str],
    grouped: Sequence[str] = (),
    order: Sequence[str] = (),
    settings: StepSettings,
    command: Sequence[str],
    output: Path,
    around: Surroundings,
) -> tuple[AblationRecord, Path]:
    """Measure, and write the record after every process; the same command continues what was stopped.

    Args:
        overrides: of the config, for baseline and target alike.
        baseline, target: overrides that make the two from it.
        grouped, order: see `switches_between`.
        settings, command, output, around: see `bench_step`.

    Raises:
        ValueError: baseline and target differ in nothing, or in what is trained; the config cannot be measured.
        OSError: the record cannot be written.
    """
    began = around.clock()
    base = [*overrides, *baseline]
    first, last = compose_parts(base), compose_parts([*overrides, *target])
    switches = switches_between(first.resolved, last.resolved, grouped=grouped, order=order)
    decided = decide(base, _variants(switches), settings)
    _check(decided, switches, first)
    steps = described(decided, base, settings, command)
    new = AblationRecord(
        steps.provenance,
        steps.model,
        steps.protocol,
        steps.rates,
        steps.variants,
        baseline=list(baseline),
        target=list(target),
        switches=switches,
    )
    record, path = begin(new, step_path(new, output, WHAT), done=processes, say=around.say)
    around.say(f"{len(switches)} switches, {len(record.variants)} combinations")
    measure(record, decided, settings, around, save=lambda: record.write(path), began=began)
    return record, path


def _variants(switches: list[SwitchRecord]) -> list[Variant]:
    combinations = planned([switch.name for switch in switches])
    return [litespark_variant(one.name, settings_of(switches, one.on)) for one in combinations]


def _check(decided: Decided, switches: list[SwitchRecord], baseline: Parts) -> None:
    """Refuse combinations whose configs differ from the baseline in anything but the switches that are on.

    Raises:
        ConfigError: an override is stronger than the settings, or follows another.
    """
    on_in = {one.name: one.on for one in planned([switch.name for switch in switches])}
    for variant, parts in decided.variants:
        expected = {key.key for switch in switches if switch.name in on_in[variant.name] for key in switch.keys}
        found = set(differences(baseline.resolved, parts.resolved))
        if found != expected:
            differs, should = (", ".join(sorted(keys)) or "nothing" for keys in (found, expected))
            raise ConfigError(
                f"{variant.name}: got a config that differs from the baseline in {differs}, expected {should}; an "
                "override is stronger than the switches, or follows one of them: give plain values"
            )
