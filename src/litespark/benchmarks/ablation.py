"""`litespark bench ablation`: the settings in which a baseline and a target differ, switched on one after the other.

Each combination of switches is measured as a variant of whole steps.
"""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from litespark.benchmarks.session import NAME
from litespark.benchmarks.step.begin import StepSettings, decide, described
from litespark.benchmarks.step.request import launch
from litespark.benchmarks.step.session import StepTurns, begin_steps
from litespark.benchmarks.step.variants import litespark_variant
from litespark.metrics.records.ablation import (
    AblationRecord,
    KeyRecord,
    SwitchRecord,
    changes_speed_only,
    default_name,
    planned,
    settings_of,
)
from litespark.metrics.records.step import RoundRecord
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, differences
from litespark.run.folder import flatten

_OF_FP8 = "ops.fp8"
_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")


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
    say: Callable[[str], None],
    launch: Callable[..., RoundRecord] = launch,
) -> tuple[AblationRecord, Path]:
    """As `bench_step`, of a baseline and a target, which are overrides beside those for both."""
    began = time.monotonic()
    base = [*overrides, *baseline]
    first, last = compose_parts(base), compose_parts([*overrides, *target])
    switches = switches_between(first.resolved, last.resolved, grouped=grouped, order=order)
    combinations = planned([switch.name for switch in switches])
    variants = [litespark_variant(one.name, settings_of(switches, one.on)) for one in combinations]
    decided = decide(base, variants, settings)
    steps = described(decided, base, settings, command)
    new = AblationRecord(steps.provenance, steps.model, steps.protocol, steps.rates, steps.variants,
                         baseline=list(baseline), target=list(target), switches=switches)  # fmt: skip
    record, path = begin_steps(new, output, "bench-ablation", say)
    say(f"{len(switches)} switches, {len(record.variants)} combinations")
    StepTurns(record, path, decided, settings, say, launch, time.monotonic, began).take()
    return record, path


def switches_between(
    baseline: dict[str, Any], target: dict[str, Any], *, grouped: Sequence[str], order: Sequence[str]
) -> list[SwitchRecord]:
    """A switch for each key in which two resolved configs differ, in the order of the config.

    Args:
        grouped: `NAME=KEY,KEY`: these keys are one switch of that name.
        order: names of all switches, in the order in which they are switched on; empty: that of the config.
    """
    switches = differences(baseline, target)
    if all(config.get("precision", {}).get("name") in ("bf16", "fp32") for config in (baseline, target)):
        switches.pop(_OF_FP8, None)  # its pieces compute with fp8 alone: two combinations less to measure
    if not switches:
        raise ConfigError(
            "got the same config for --baseline and --target, expected settings in which they differ: "
            "--baseline 'ops=reference' --target 'ops=litespark'"
        )
    refused = {key: pair for key, pair in switches.items() if not changes_speed_only(key)}
    if refused:
        said = "; ".join(f"{key}: {one!r} and {other!r}" for key, (one, other) in refused.items())
        raise ConfigError(
            f"--baseline and --target differ in what is trained ({said}), expected differences in ops, recompute, "
            "precision and optim.fused alone: an ablation compares the speed of the same training. Give these settings "
            "to both, as overrides of the whole benchmark; two ways to train are compared by litespark bench to-loss"
        )
    places = [*flatten(baseline), *flatten(target)]
    texts = {key: [_text(key, value) for value in switches[key]] for key in sorted(switches, key=places.index)}
    keys = {key: KeyRecord(key, *pair) for key, pair in texts.items()}
    name_of = {key: default_name(key) for key in keys}
    for word in grouped:
        name, _, members = word.partition("=")
        chosen = [key.strip() for key in members.split(",")]
        if not NAME.fullmatch(name) or any(key not in keys for key in chosen):
            raise ConfigError(
                f"--switch: got {word!r}, expected NAME=KEY,KEY such as norm=ops.rms_norm,ops.add_rms_norm, of the "
                f"keys in which baseline and target differ: {', '.join(keys)}"
            )
        if name in {other for key, other in name_of.items() if key not in chosen}:
            raise ConfigError(f"--switch: got the name {name} for two switches, expected another for one of them")
        name_of |= dict.fromkeys(chosen, name)
    names = list(dict.fromkeys(name_of.values()))
    if order and sorted(order) != sorted(names):
        raise ConfigError(f"--order: got {','.join(order)}, expected each of {','.join(names)} once")
    return [SwitchRecord(name, [keys[key] for key in keys if name_of[key] == name]) for name in order or names]


def _text(key: str, value: Any) -> str:
    """A value as an override says it."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if not _PLAIN.fullmatch(text):
        raise ConfigError(f"{key}: got {value!r}, expected a name, a number, true, false or null")
    return text
