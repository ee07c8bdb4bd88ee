"""Finds in the runs of a sweep the ablation that they are, so that whole trainings give the table of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
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
_REFERENCE = "reference"


def ablation_of(runs: Sequence[Run]) -> Ablation | str | None:
    """The ablation that these runs are, their seeds as repeats.

    Returns:
        None where the runs differ in something else than switches, or in nothing; a reason in words where they differ
        in switches alone and still make no table.
    """
    finished = [run for run in runs if run.record.status == "finished" and run.config]
    keys = [key for key in differing_keys(finished) if key != "seed" and key.split(".")[0] != "variant"]
    configs = [flatten(run.config) for run in finished]
    if not keys or not all(map(changes_speed_only, keys)):
        return None
    values = {key: {config.get(key) for config in configs} for key in keys}
    plain = {key: _plainer(key, found) for key, found in values.items()}
    if any(len(found) != 2 for found in values.values()) or None in plain.values():
        return None
    switches = _together(keys, {key: tuple(config.get(key) != plain[key] for config in configs) for key in keys})
    on_in = [
        frozenset(name for name, members in switches.items() if config.get(members[0]) != plain[members[0]])
        for config in configs
    ]
    by_switches: dict[Switches, list[Run]] = {}
    for on, run in sorted(zip(on_in, finished, strict=True), key=lambda pair: pair[1].record.started):
        by_switches.setdefault(on, []).append(run)
    reason = _incomparable(finished) or _without_ends(by_switches, switches)
    if reason is not None:
        return f"The runs differ only in {', '.join(switches)}, but are no ablation: {reason}."
    order = _order(list(switches), list(by_switches))
    names = {each.on: each.name for each in planned(order)}
    return ablation(
        order,
        {on: _combination(names[on], by_switches[on]) for on in by_switches if on in names},
        repeat="seed",
        joules_reason=next((run.record.energy.reason for run in finished if run.record.energy.reason), None),
        unchanged=_without_effect(order, switches, by_switches),
    )


def _plainer(key: str, values: set[Any]) -> Any:
    """The value of a baseline among those of a key; None where none of them is known to be the plainer one."""
    known = _PLAINEST_FIRST.get(key, (_REFERENCE,))
    return next((value for value in known if value in values), None)


def _together(keys: Sequence[str], switched: Mapping[str, tuple[bool, ...]]) -> dict[str, list[str]]:
    """Keys that are always switched together as one switch, named after all of them."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    for key in keys:
        groups.setdefault(switched[key], []).append(key)
    return {"+".join(map(default_name, members)): members for members in groups.values()}


def _incomparable(runs: Sequence[Run]) -> str | None:
    facts: dict[str, Callable[[Run], object]] = {
        "devices": lambda run: [device.name for device in run.record.environment.devices],
        "numbers of processes": lambda run: run.record.environment.world_size,
        "data": lambda run: run.record.data.manifest_hash,
        "numbers of tokens": lambda run: run.record.throughput.tokens,
    }
    different = [what for what, fact in facts.items() if any(fact(run) != fact(runs[0]) for run in runs)]
    return f"they have different {', '.join(different)}" if different else None


def _without_ends(found: Mapping[Switches, object], switches: Mapping[str, object]) -> str | None:
    ends = {"off": frozenset[str](), "on": frozenset(switches)}
    missing = [f"no finished run has all of them {state}" for state, on in ends.items() if on not in found]
    return "; ".join(missing) or None


def _order(switches: Sequence[str], present: Sequence[Switches]) -> list[str]:
    """The order in which the switches were added one by one, as far as there are runs for it; then the others.

    Of two runs that continue it equally far the one that was started first is taken: `present` is in that order.
    """

    @cache
    def longest(on: Switches) -> tuple[str, ...]:
        paths = [(*(each - on), *longest(each)) for each in present if on < each and len(each) == len(on) + 1]
        return max(paths, key=len, default=())

    path = longest(frozenset())
    return [*path, *(name for name in switches if name not in path)]


def _combination(name: str, runs: Sequence[Run]) -> Combination:
    """The newest run of each seed."""
    by_seed = {run.record.seed: run.record for run in runs}
    older = len(runs) - len(by_seed)
    notes = (f"{name}: older runs of the same seeds left out: {older}",) if older else ()
    return Combination(name, Repeats({seed: _figures(record) for seed, record in by_seed.items()}), notes)


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


def _without_effect(
    order: Sequence[str], switches: Mapping[str, list[str]], found: Mapping[Switches, list[Run]]
) -> list[str]:
    """Switches of ops with which the same backends ran as without."""

    def backends(count: int) -> list[tuple[str, str]]:
        runs = found.get(frozenset(order[:count]), [])
        return [(each.op, each.used) for each in runs[-1].record.ops] if runs else []

    return [
        name
        for index, name in enumerate(order)
        if all(key.startswith("ops.") for key in switches[name]) and backends(index + 1)
        if backends(index) == backends(index + 1)
    ]
