"""`litespark bench ablation` from start to end: its combinations of switches, measured as variants of whole steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.ablation.switches import switches_between
from litespark.benchmarks.record_path import continued
from litespark.benchmarks.step.begin import Compose, Decided, add_rates, decide, described
from litespark.benchmarks.step.request import launch
from litespark.benchmarks.step.session import Launch, file_of, measure
from litespark.benchmarks.step.settings import StepSettings
from litespark.benchmarks.step.variants import Variant, litespark_variant
from litespark.experiment.config import ConfigError, Parts, differences
from litespark.metrics.records.ablation import AblationRecord, SwitchRecord, planned, settings_of

WHAT = "bench-ablation"


def bench_ablation(
    compose: Compose,
    overrides: Sequence[str],
    *,
    baseline: Sequence[str],
    target: Sequence[str],
    grouped: Sequence[str] = (),
    order: Sequence[str] = (),
    settings: StepSettings,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    launch: Launch = launch,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[AblationRecord, Path]:
    """Measure, and write the record after every process; the same command continues what was stopped.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, for baseline and target alike.
        baseline, target: overrides that make the two from it.
        grouped, order: see `switches_between`.
        settings: how it is run.
        command: the words that get it again, for the record.
        output: folder of records; the file is DEVICE/DATE_bench-ablation_MODEL_PRECISION.json in it.
        say: is told what is being done.
        launch, clock: replaced in tests.

    Raises:
        ValueError: baseline and target differ in nothing, or in what is trained; the config cannot be measured.
        OSError: the record cannot be written.
    """
    began = clock()
    base = [*overrides, *baseline]
    first, last = compose(base), compose([*overrides, *target])
    switches = switches_between(first.resolved, last.resolved, grouped=grouped, order=order)
    decided = decide(compose, base, _variants(switches), settings)
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
    record, path = continued(new, file_of(new, output, WHAT))
    if record is new:
        say(f"{len(switches)} switches, {len(new.variants)} combinations; measuring what this device reaches")
        add_rates(record, decided)
        record.write(path)  # what cannot be written is known before minutes are spent
    else:
        say(f"{path}: continued, {sum(len(each.measured) for each in record.variants)} processes are there")
    measure(record, base, settings, save=lambda: record.write(path), say=say, launch=launch, clock=clock,
            began=began)  # fmt: skip
    return record, path


def _variants(switches: list[SwitchRecord]) -> list[Variant]:
    combinations = planned([each.name for each in switches])
    return [litespark_variant(each.name, settings_of(switches, each.on)) for each in combinations]


def _check(decided: Decided, switches: list[SwitchRecord], baseline: Parts) -> None:
    """Refuse combinations whose configs differ from the baseline in anything but the switches that are on.

    Raises:
        ConfigError: an override is stronger than the settings, or follows another.
    """
    on_in = {each.name: each.on for each in planned([each.name for each in switches])}
    for variant, parts in decided.variants:
        expected = {each.key for switch in switches if switch.name in on_in[variant.name] for each in switch.keys}
        found = set(differences(baseline.resolved, parts.resolved))
        if found != expected:
            differs, should = (", ".join(sorted(keys)) or "nothing" for keys in (found, expected))
            raise ConfigError(
                f"{variant.name}: got a config that differs from the baseline in {differs}, expected {should}; an "
                "override is stronger than the switches, or follows one of them: give plain values"
            )
