"""Which settings an ablation switches: the keys in which the configs of its baseline and its target differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from litespark.metrics.records.ablation import KeyRecord, SwitchRecord, changes_speed_only, default_name
from litespark.run.config import ConfigError, differences

_OF_FP8 = "ops.fp8"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+")


def switches_between(
    baseline: dict[str, Any], target: dict[str, Any], *, grouped: Sequence[str], order: Sequence[str]
) -> list[SwitchRecord]:
    """A switch for each key in which two resolved configs differ, in the order of the config.

    Args:
        baseline, target: the resolved configs.
        grouped: `NAME=KEY,KEY`: these keys are one switch of that name.
        order: names of all switches, in the order in which they are switched on; empty: that of the config.

    Raises:
        ConfigError: the configs do not differ, or in keys that change what is trained; a key or a name is unknown.
    """
    found = differences(baseline, target)
    if all(_name_of_precision(each) in ("bf16", "fp32") for each in (baseline, target)):
        found.pop(_OF_FP8, None)  # its pieces compute with fp8 alone: two combinations less to measure
    if not found:
        raise ConfigError(
            "got the same config for --baseline and --target, expected settings in which they differ: "
            "--baseline 'ops=reference' --target 'ops=litespark'"
        )
    refused = {key: pair for key, pair in found.items() if not changes_speed_only(key)}
    if refused:
        said = "; ".join(f"{key}: {one!r} and {other!r}" for key, (one, other) in refused.items())
        raise ConfigError(
            f"--baseline and --target differ in what is trained ({said}), expected differences in ops, recompute, "
            "precision and optim.fused alone: an ablation compares the speed of the same training. Give these settings "
            "to both, as overrides of the whole benchmark; two ways to train are compared by litespark bench to-loss"
        )
    keys = {
        key: KeyRecord(key, _text(key, found[key][0]), _text(key, found[key][1]))
        for key in sorted(found, key=lambda key: _place(baseline, key))
    }
    groups = [_group(word, keys) for word in grouped]
    taken = [key for _, names in groups for key in names]
    if len(set(taken)) < len(taken):
        raise ConfigError(f"--switch: got the keys {', '.join(taken)}, expected each once")
    group_of = {key: (name, members) for name, members in groups for key in members}
    switches: dict[str, list[KeyRecord]] = {}
    for key in keys:
        name, members = group_of.get(key, (default_name(key), [key]))
        if name in switches and key not in [each.key for each in switches[name]]:
            raise ConfigError(f"--switch: got the name {name} for two switches, expected another for one of them")
        switches.setdefault(name, [keys[each] for each in members])
    return _ordered([SwitchRecord(name, members) for name, members in switches.items()], order)


def _group(word: str, known: dict[str, KeyRecord]) -> tuple[str, list[str]]:
    name, equals, rest = word.partition("=")
    keys = [key.strip() for key in rest.split(",") if key.strip()]
    if not equals or not _NAME.fullmatch(name) or not keys:
        raise ConfigError(f"--switch: got {word!r}, expected NAME=KEY,KEY such as norm=ops.rms_norm,ops.add_rms_norm")
    for key in keys:
        if key not in known:
            raise ConfigError(
                f"--switch {name}: got the key {key!r}, expected keys in which baseline and target differ: "
                f"{', '.join(known)}"
            )
    return name, keys


def _ordered(switches: list[SwitchRecord], order: Sequence[str]) -> list[SwitchRecord]:
    if not order:
        return switches
    by_name = {each.name: each for each in switches}
    if sorted(order) != sorted(by_name):
        raise ConfigError(f"--order: got {','.join(order)}, expected each of {','.join(by_name)} once")
    return [by_name[name] for name in order]


def _name_of_precision(config: dict[str, Any]) -> object:
    return config.get("precision", {}).get("name")


def _place(config: dict[str, Any], key: str) -> list[int]:
    """Where a dotted key stands in a config, level by level."""
    place: list[int] = []
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            break
        place.append(list(node).index(part))
        node = node[part]
    return place


def _text(key: str, value: Any) -> str:
    """A value as an override says it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if not _PLAIN.fullmatch(text):
        raise ConfigError(f"{key}: got {value!r}, expected a name, a number, true, false or null")
    return text
