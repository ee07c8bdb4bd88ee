"""Finds in the runs of a sweep the ablation that they are, so that whole trainings give the table of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litespark.metrics.records.ablation import changes_speed_only, default_name, planned
from litespark.reports.ablation_rows import Ablation, Combination, Switches, ablation
from litespark.reports.repeats import Repeats
from litespark.reports.runs import Run, differing_keys
from litespark.run.folder import flatten
from litespark.run.record import RunRecord

# the plainer value of a setting is the one of the baseline; of an op it is its reference
_PLAINEST_FIRST: dict[str, tuple[Any, ...]] = {
    "recompute.mode": ("full", "swiglu", "none"),
    "optim.fused": (False, True),
    "precision.name": ("fp32", "bf16", "fp8"),
    "ops.compile": ("none", "block", "model"),
}


def ablation_of(runs: Sequence[Run]) -> Ablation | str | None:
    """The ablation that these runs are, their seeds as repeats.

    Returns:
        None where the runs differ in something else than switches, or in nothing; a reason in words where they differ
        in switches alone and still make no table.
    """
    runs = sorted((run for run in runs if run.record.complete and run.config), key=lambda run: run.record.started)
    keys = [key for key in differing_keys(runs) if key != "seed"]
    if not keys or not all(map(changes_speed_only, keys)):
        return None
    # keys that are always switched together are one switch, named after all of them
    together: dict[tuple[bool, ...], list[str]] = {}
    for key in keys:
        values = [flatten(run.config).get(key) for run in runs]
        plain = next((value for value in _PLAINEST_FIRST.get(key, ("reference",)) if value in values), None)
        if plain is None or len(set(values)) != 2:
            return None
        together.setdefault(tuple(value != plain for value in values), []).append(key)
    names = {switched: "+".join(map(default_name, members)) for switched, members in together.items()}
    by_switches: dict[Switches, list[RunRecord]] = {}
    for index, run in enumerate(runs):
        on = frozenset(name for switched, name in names.items() if switched[index])
        by_switches.setdefault(on, []).append(run.record)
    if reason := _incomparable([run.record for run in runs]) or _without_ends(by_switches, frozenset(names.values())):
        return f"The runs differ only in {', '.join(names.values())}, but are no ablation: {reason}."
    members = {name: together[switched] for switched, name in names.items()}
    switches = {name: members[name] for name in _order(list(members), list(by_switches))}
    combinations = {each.on: _combination(each.name, by_switches[each.on]) for each in planned(list(switches))
                    if each.on in by_switches}  # fmt: skip
    reasons = [run.record.energy.reason for run in runs]
    return ablation(switches, combinations, repeat="seed", joules_reason=next(filter(None, reasons), None))


def _incomparable(records: Sequence[RunRecord]) -> str | None:
    facts: dict[str, list[Any]] = {
        "devices": [[device.name for device in record.environment.devices] for record in records],
        "numbers of processes": [record.environment.world_size for record in records],
        "data": [record.data.manifest_hash for record in records],
        "numbers of tokens": [record.throughput.tokens for record in records],
    }
    different = [what for what, values in facts.items() if any(value != values[0] for value in values)]
    return f"they have different {', '.join(different)}" if different else None


def _without_ends(by_switches: dict[Switches, list[RunRecord]], all_on: Switches) -> str | None:
    ends = {"off": Switches(), "on": all_on}
    missing = [f"no finished run has all of them {state}" for state, on in ends.items() if on not in by_switches]
    return "; ".join(missing) or None


def _order(switches: Sequence[str], present: Sequence[Switches]) -> list[str]:
    """The order in which the switches were added one by one, as far as there are runs for it; then the others.

    Of two runs that continue it the one that was started first is taken: `present` is in that order.
    """
    order: list[str] = []
    while more := next((on for on in present if on > set(order) and len(on) == len(order) + 1), None):
        order += more - set(order)
    return [*order, *(name for name in switches if name not in order)]


def _combination(name: str, records: Sequence[RunRecord]) -> Combination:
    """The newest run of each seed."""
    by_seed = {record.seed: record for record in records}
    older = len(records) - len(by_seed)
    notes = (f"{name}: older runs of the same seeds left out: {older}",) if older else ()
    ran = ", ".join(f"{op.op} {op.used}" for op in records[-1].ops)
    return Combination(name, Repeats({seed: _figures(record) for seed, record in by_seed.items()}), ran or None, notes)


def _figures(record: RunRecord) -> dict[str, float | None]:
    speed = record.throughput
    return {
        "tokens_per_second": speed.tokens_per_second,
        "mfu_causal": speed.mfu_causal,
        "mfu_measured": speed.mfu_measured_peak,
        "joules_per_token": record.energy.joules_per_token_train,
        "peak_memory_mib": None if speed.peak_memory_gib is None else 1024 * speed.peak_memory_gib,
        "loss": record.quality.validation_loss,
    }
