"""Finds in the runs of a sweep the ablation that they are, so that whole trainings give the table of the benchmark."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from litespark.metrics.records.ablation import changes_speed_only, default_name, planned
from litespark.reports.ablation import Ablation, Combination, Switches, ablation
from litespark.reports.repeats import Repeats
from litespark.reports.runs import FIGURES, Run, differing_keys
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
    """The ablation that these runs are, their seeds as repeats; None where they differ in more than switches.

    A reason in words where they differ in switches alone and still make no table.
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
    if reason := _no_ablation([run.record for run in runs], by_switches, frozenset(names.values())):
        return f"The runs differ only in {', '.join(names.values())}, but are no ablation: {reason}."
    keys_of = {name: together[switched] for switched, name in names.items()}
    switches = {name: keys_of[name] for name in _order(list(keys_of), list(by_switches))}
    combinations = {
        combination.on: _combination(combination.name, by_switches[combination.on])
        for combination in planned(list(switches))
        if combination.on in by_switches
    }
    reasons = [run.record.energy.reason for run in runs]
    return ablation(switches, combinations, "seed", next(filter(None, reasons), None))


def _no_ablation(records: Sequence[RunRecord], present: Collection[Switches], all_on: Switches) -> str:
    """Why runs that differ in switches alone make no table; empty where they make one."""
    facts: dict[str, list[Any]] = {
        "devices": [[device.name for device in record.environment.devices] for record in records],
        "numbers of processes": [record.environment.world_size for record in records],
        "data": [record.data.manifest_hash for record in records],
        "numbers of tokens": [record.throughput.tokens for record in records],
    }
    if different := [what for what, values in facts.items() if any(value != values[0] for value in values)]:
        return f"they have different {', '.join(different)}"
    ends = {"off": Switches(), "on": all_on}
    return "; ".join(f"no finished run has all of them {state}" for state, on in ends.items() if on not in present)


def _order(switches: Sequence[str], present: Sequence[Switches]) -> list[str]:
    """The order in which the switches were added one by one, as far as there are runs for it; then the others.

    Of two runs that continue it equally far the one that was started first is taken: `present` is in that order.
    """

    @cache
    def longest(on: Switches) -> tuple[str, ...]:
        paths = [(*(more - on), *longest(more)) for more in present if on < more and len(more) == len(on) + 1]
        return max(paths, key=len, default=())

    order = longest(Switches())
    return [*order, *(name for name in switches if name not in order)]


def _combination(name: str, records: Sequence[RunRecord]) -> Combination:
    by_seed = {record.seed: record for record in records}  # the newest run of each
    older = len(records) - len(by_seed)
    notes = (f"{name}: older runs of the same seeds left out: {older}",) if older else ()
    ran = ", ".join(f"{op.op} {op.used}" for op in records[-1].ops)
    return Combination(name, Repeats({seed: _figures(record) for seed, record in by_seed.items()}), ran or None, notes)


def _figures(record: RunRecord) -> dict[str, float | None]:
    figures = {name: figure.of(record) for name, figure in FIGURES.items()}
    memory = figures["peak_memory_gib"]
    return figures | {
        "mfu_measured": figures["mfu_measured_peak"],
        "loss": figures["validation_loss"],
        "peak_memory_mib": memory and 1024 * memory,
    }
