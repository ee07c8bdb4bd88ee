"""Every number that a user can set has a range, and is refused outside it by name, before anything else happens."""

from __future__ import annotations

import argparse
import math
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Annotated, Any, get_args, get_type_hints

import pytest

import litespark.benchmarks
from litespark.cli import COMMANDS
from litespark.data.config import PrepareConfig
from litespark.experiment.config import Parts
from litespark.ops.rope.reference import RopeScaling
from litespark.ranges import LARGEST, LARGEST_WHOLE, Count, Positive, Range, Share, check_ranges, number, ranges_of
from tests.experiment.composed import parts

# what composes every settings class that a config can fill
CONFIGS = (
    [],
    ["optim=muon", "schedule=wsd", "model=llama8b", "data.seq_len=8192"],
    ["data=text", "data.source=FOLDER", "budget.tokens=null", "budget.steps=3"],
)


def benchmark_settings() -> Iterator[type]:
    """The classes of a benchmark's own options."""
    for found in pkgutil.walk_packages(litespark.benchmarks.__path__, "litespark.benchmarks."):
        if found.name.endswith((".settings", ".session", ".rounds")):
            members = vars(import_module(found.name)).values()
            yield from (each for each in members if isinstance(each, type) and each.__name__.endswith("Settings"))


def filled(value: Any, group: str) -> dict[type, tuple[str, dict[str, Any]]]:
    """class -> (its config group, its values), for `value` and every dataclass in it."""
    if not is_dataclass(value):
        return {}
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    found = {} if isinstance(value, Parts) else {type(value): (group, values)}
    for name, inner in values.items():
        path = "precision.fp8" if name == "fp8" and not group else f"{group}.{name}" if group else name
        found |= filled(inner, path)
    return found


def from_configs() -> dict[type, tuple[str, dict[str, Any]]]:
    return {kind: values for overrides in CONFIGS for kind, values in filled(parts(*overrides), "").items()}


SETTINGS = from_configs() | {kind: ("--", {}) for kind in benchmark_settings()}
NUMBERS = [
    (kind, field.name)
    for kind in SETTINGS
    for field in fields(kind)
    if list(ranges_of(get_type_hints(kind, include_extras=True)[field.name]))
]


def hint_of(kind: type, name: str) -> Any:
    return get_type_hints(kind, include_extras=True)[name]


def made(kind: type, name: str, value: Any) -> Any:
    given = dict(SETTINGS[kind][1])
    if name == "steps" and "tokens" in given:
        given["tokens"] = None
    if name == "tokens" and given.get("steps"):
        given["steps"] = None
    return kind(**given | {name: value})


def as_given(hint: Any, value: Any) -> Any:
    """`value` where the annotation has its number: itself, in a tuple or under a name."""
    for option in (hint, *get_args(hint)):
        if getattr(option, "__origin__", None) is tuple:
            return (value, value)
        if getattr(option, "__origin__", None) is dict:
            return {"domain": value}
    return value


def test_the_settings_of_all_groups_and_benchmarks_are_found():
    names = {kind.__name__ for kind in SETTINGS}
    assert {"LlamaConfig", "RopeScaling", "AdamWConfig", "MuonConfig", "Fp8Config", "AdaptiveConfig"} <= names
    assert {"PrepareConfig", "SyntheticConfig", "SelectionConfig", "ProjectionConfig", "BudgetConfig"} <= names
    assert {"StepSettings", "DataSettings", "TrainingSettings", "CorpusSettings"} <= names
    assert len(NUMBERS) > 70


def test_every_number_has_a_range_with_an_end_below():
    found = {(kind.__name__, name, range) for kind, name in NUMBERS for _, range in ranges_of(hint_of(kind, name))}
    without = {each[:2] for each in found if each[2] is None or (each[2].at_least is None) == (each[2].above is None)}
    assert without == set()


def test_what_is_no_number_in_the_range_is_refused_by_name():
    accepted = []
    for kind, name in NUMBERS:
        hint, key, wrong = hint_of(kind, name), *not_in_range(kind, name)
        for value in wrong:
            try:
                made(kind, name, as_given(hint, value))
                accepted.append((kind.__name__, name, value, "accepted"))
            except ValueError as error:
                if not re.match(rf"{key}[^ ]*: got .*, expected a (whole )?number", str(error)):
                    accepted.append((kind.__name__, name, value, str(error)))
    assert accepted == []


def not_in_range(kind: type, name: str) -> tuple[str, list[Any]]:
    """The name under which a number is refused, and what it may not be."""
    ((number_kind, range),) = set(ranges_of(hint_of(kind, name)))
    low = range.at_least - 1 if range.at_least is not None else range.above
    high = LARGEST_WHOLE if number_kind is int else LARGEST
    wrong = [math.nan, math.inf, -math.inf, True, "1", low, -1e300, 10 * high, 10**400]
    if range.at_most is not None:
        wrong.append(range.at_most * 1.01 + 1)
    if range.below is not None:
        wrong.append(range.below)
    if number_kind is int:
        wrong.append(range.at_least + 0.5)
    group, _ = SETTINGS[kind]
    return "(--|process_timeout|loss_rows)" if group == "--" else f"{group}.{name}", wrong


def test_a_default_is_in_its_range():
    outside = []
    for kind, name in NUMBERS:
        default = next(field.default for field in fields(kind) if field.name == name)
        for each in default if isinstance(default, tuple) else (default,):
            for number_kind, range in ranges_of(hint_of(kind, name)):
                if isinstance(each, int | float) and not range.holds(each, number_kind):
                    outside.append((kind.__name__, name, each))
    assert outside == []


def test_the_message_has_a_value_to_paste():
    with pytest.raises(ValueError, match=r"callbacks.checkpoint_every: got 0, .* set callbacks.checkpoint_every=null$"):
        parts("callbacks.checkpoint_every=0")
    with pytest.raises(ValueError, match=r"set 'optim.betas=\[0.9,0.95\]'$"):
        parts("optim.betas=[0.9,1]")
    with pytest.raises(ValueError, match=r"; set optim.lr=0.0003$"):
        parts("optim.lr=nan")


def test_numbers_that_do_not_fit_together_are_refused():
    for overrides, message in (
        (["schedule=wsd", "schedule.warmup=0.6", "schedule.decay=0.6"], "warmup 0.6 . decay 0.6, expected at most 1"),
        (["optim.lr=0.5", "optim.weight_decay=3"], "optim.weight_decay: got 3 with optim.lr=0.5, expected at most 2"),
        (["model.head_dim=33"], "even"),
        (["model.num_heads=6", "model.num_kv_heads=4"], "not a multiple of model.num_kv_heads"),
        (["optim.betas=[0.9]"], "optim.betas: got .*, expected two numbers"),
        (["optim.betas=0.9"], "optim.betas: got 0.9, expected two numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            parts(*overrides)
    with pytest.raises(ValueError, match="low_frequency_factor: got 5"):
        RopeScaling(8.0, 5.0, 4.0, 8192)
    with pytest.raises(ValueError, match="node_rank"):
        PrepareConfig(seq_len=1, micro_batch_size=1, source="s", root="r", vocab_size=300, node_rank=1)


def options() -> list[Any]:
    found = []
    for command in COMMANDS.values():
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        found += [
            (parser, action)
            for action in parser._actions
            if (isinstance(action.default, int | float) and not isinstance(action.default, bool))
            or action.type in (int, float)
            or getattr(action.type, "__qualname__", "").startswith("number.")
        ]
    return found


def test_every_option_that_is_a_number_refuses_what_is_none():
    found = options()
    assert len(found) > 25
    for parser, action in found:
        for word in ("nan", "inf", "-inf", "-1", "many", "1e999", "9" * 5000, "", "0x1", "\udcff"):
            with pytest.raises(argparse.ArgumentError, match=r"got .*, expected a (whole )?number"):
                parser._get_values(action, [word])


def test_ranges_in_words():
    assert Range(at_least=1).expected(int, 0) == "a whole number of at least 1"
    assert Range(at_least=1).expected(int, 2**70) == f"a whole number from 1 to {2**53}"
    assert Range(above=0, below=1, why="a share").expected(float, 2) == "a number above 0 and below 1 (a share)"
    assert number(Share)("0.25") == 0.25
    assert number(Count)("7") == 7
    with pytest.raises(argparse.ArgumentTypeError, match=r"got '7\.5', expected a whole number of at least 1"):
        number(Count)("7.5")


def test_ranges_are_found_inside_other_kinds():
    assert list(ranges_of(dict[str, Positive] | None)) == [(float, Range(above=0))]
    assert list(ranges_of(tuple[Count, ...])) == [(int, Range(at_least=1))]
    assert list(ranges_of(Annotated[int, "no range"])) == [(int, None)]
    assert list(ranges_of(str | None)) == []

    class Plain:
        pass

    with pytest.raises(TypeError):
        check_ranges(Plain(), "x")
