"""Settings, of every group and benchmark: each number has a range, what cannot be is refused by name, all at once."""

from __future__ import annotations

import math
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

import litespark.benchmarks
from litespark.cli.documents import page_of_settings
from litespark.config.groups import GROUPS, ROOT, classes_of, on_resume
from litespark.config.loop import TrainerConfig
from litespark.config.settings import (
    BY_CONTENT,
    FIXED,
    MAY_CHANGE,
    NOT_COMPARED,
    SettingsError,
    fields_of,
    meaning_of,
    settings_in,
)
from litespark.ops.rope.reference import RopeScaling
from litespark.ranges import LARGEST, LARGEST_WHOLE, Count, Range, check_number
from tests.run.composed import parts

ROOT_FOLDER = Path(__file__).parents[2]
# of each class, what it cannot be made without
GIVEN = {
    "LlamaConfig": {"name": "x", "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4,
                    "intermediate_size": 64, "vocab_size": 64, "max_seq_len": 64},
    "HuggingFaceConfig": {"path": "folder"},
    "GRPO": {"rewards": {"parses": 1.0}},
    "PrepareConfig": {"seq_len": 8, "micro_batch_size": 1, "source": "s", "root": "r", "vocab_size": 300},
    "ExamplesConfig": {"seq_len": 8, "micro_batch_size": 1, "source": "s", "root": "r", "vocab_size": 300},
    "SyntheticConfig": {"seq_len": 8, "micro_batch_size": 1, "vocab_size": 300},
    "BudgetConfig": {"steps": 3},
    "RopeScaling": {"factor": 8.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0,
                    "original_max_seq_len": 8},
}  # fmt: skip


def all_classes() -> Iterator[type]:
    todo = [ROOT, *(each for group in GROUPS for each in classes_of(group).values())]
    for found in pkgutil.walk_packages(litespark.benchmarks.__path__, "litespark.benchmarks."):
        if found.name.endswith((".settings", ".session", ".rounds")):
            todo += [each for each in vars(import_module(found.name)).values() if hasattr(each, "__settings_at__")]
    while todo:
        yield (each := todo.pop())
        todo += filter(None, (settings_in(field.annotation) for field in fields_of(each).values()))


CLASSES = list(dict.fromkeys(all_classes()))


def ranges(hint: Any, metadata: Any = ()) -> Iterator[tuple[Any, Range | None]]:
    """(int or float, its range) of an annotation."""
    if get_origin(hint) is Annotated:
        yield from ranges(hint.__origin__, hint.__metadata__)
    elif hint in (int, float):
        yield hint, next((each for each in metadata if isinstance(each, Range)), None)
    else:
        for inner in get_args(hint):
            yield from ranges(inner)


NUMBERS = [
    (kind, name, number, range)
    for kind in CLASSES
    for name, field in fields_of(kind).items()
    for number, range in dict.fromkeys(ranges(field.annotation, field.metadata))
]


def test_the_classes_are_found_and_each_setting_has_a_meaning():
    some = "LlamaConfig RopeScaling MuonConfig AdaptiveConfig SelectionConfig ProjectionConfig RunConfig StepSettings"
    assert {*some.split(), "DataSettings", "TrainingSettings", "CorpusSettings"} <= {kind.__name__ for kind in CLASSES}
    assert len(NUMBERS) > 70
    groups = [kind for kind in CLASSES if kind.__settings_at__ != "--"]
    assert [(kind, name) for kind in groups for name in fields_of(kind) if not meaning_of(kind, name)] == []


def test_every_number_has_a_range_with_an_end_below_in_which_its_default_lies():
    assert [each for each in NUMBERS if each[3] is None or (each[3].at_least is None) == (each[3].above is None)] == []
    for kind in CLASSES:
        given = GIVEN.get(kind.__name__, {})
        made = kind(**given)
        kind(**{name: getattr(made, name) for name in fields_of(kind)})


def test_what_is_no_number_in_the_range_is_refused_by_name():
    accepted = []
    for kind, name, number, range in NUMBERS:
        hint = fields_of(kind)[name].annotation
        listed = next((get_origin(each) for each in (hint, *get_args(hint)) if get_origin(each) in (tuple, dict)), None)
        for value in not_in(range, number):
            wrapped = (value, value) if listed is tuple else {"domain": value} if listed is dict else value
            try:
                kind(**GIVEN.get(kind.__name__, {}) | {name: wrapped})
                accepted.append((kind.__name__, name, value))
            except SettingsError as error:
                at, leaf = kind.__settings_at__, name.replace("_", "-")
                key = rf"{at}\.{name}".removeprefix(r"\.") if at != "--" else rf"(--{leaf}|--warmup|{name})"
                if not re.match(rf"(2 settings.*\n- )?{key}[^ ]*: got .*, expected a (whole )?number", str(error)):
                    accepted.append((kind.__name__, name, value, str(error)))
    assert accepted == []


def not_in(range: Range, number: type) -> list[Any]:
    low = range.at_least - 1 if range.at_least is not None else range.above
    high = LARGEST_WHOLE if number is int else LARGEST
    wrong = [math.nan, math.inf, -math.inf, True, "1", low, -1e300, 10 * high, 10**400]
    wrong += [range.at_most * 1.01 + 1] if range.at_most is not None else []
    wrong += [range.below] if range.below is not None else []
    return wrong + ([range.at_least + 0.5] if number is int else [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.checkpoint_every=0", r"callbacks\.checkpoint_every: got 0, .*; set callbacks\.\w+=null$"),
        ("optim.betas=[0.9,1]", r"optim.betas\[1\]: got 1, .* set 'optim.betas=\[0.9,0.95\]'$"),
        ("optim.betas=[0.9]", r"optim.betas\[1\]: got nothing, expected a value; set 'optim.betas=\[0.9,0.95\]'"),
        ("optim.lr=nan", "; set optim.lr=0.0003$"),
        ("model.hidden_size=1.5", "model.hidden_size: got 1.5, expected a whole number .*; set model.hidden_size=2"),
        ("~model.hidden_size", "model.hidden_size: got nothing, expected a value"),
        ("seed=abc", "seed: got 'abc', expected a whole number .*set seed=1234"),
        ("precision.fp8.simulate=1", r"precision\.fp8\.simulate: got 1, expected true or false"),
        ("precision.fp8.linears=qkv", r"precision\.fp8\.linears: got 'qkv', expected a list; .*linears=\[qkv"),
        ("paths.logs=''", "paths.logs: got ''"),
        ("data.seq_len=0 optim.lr=-1", r"2 settings cannot be taken:\n- data.seq_len: got 0.*\n- optim.lr: got -1"),
        ("schedule=wsd schedule.warmup=0.6 schedule.decay=0.6", "warmup 0.6 . decay 0.6, expected at most 1"),
        ("optim.lr=0.5 optim.weight_decay=3", "optim.weight_decay: got 3 with optim.lr=0.5, expected at most 2"),
        (
            "task=grpo task.rewards.parses=x",
            r"rewards\.parses: got 'x', .*; set 'task\.rewards=\{parses: 1\.0, length: 0\.1\}'$",
        ),
        ("model.head_dim=33", "even"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name_with_what_can_be_pasted(override, message):
    with pytest.raises(ValueError, match=message):
        parts(*override.split())


def test_settings_that_do_not_fit_together_are_refused_where_one_is_made():
    with pytest.raises(SettingsError, match="low_frequency_factor: got 5"):
        RopeScaling(8.0, 5.0, 4.0, 8192)
    with pytest.raises(SettingsError, match="node_rank"):
        classes_of("data")["text"](**GIVEN["PrepareConfig"], node_rank=1)


def test_each_setting_says_whether_a_resume_may_change_it():
    rules = {
        FIXED: "model.hidden_size model.rope_scaling.factor seed task.kind",
        MAY_CHANGE: "optim.lr",
        BY_CONTENT: "data.source data.selection.quality",
        NOT_COMPARED: "variant.label",
    }
    for rule, keys in rules.items():
        assert {on_resume(key) for key in keys.split()} == {rule}
    # of several classes that have the key, as in its own
    assert on_resume("data.vocab_size", classes_of("data")["synthetic"]) is FIXED


def test_the_page_of_settings_is_current():
    """`litespark settings` writes it."""
    assert page_of_settings() == (ROOT_FOLDER / "docs" / "settings.md").read_text()


def test_a_single_number_is_checked_as_a_setting_is():
    check_number("--steps", 1e4, Count)
    with pytest.raises(ValueError, match=r"--steps: got 0, expected a whole number of at least 1"):
        check_number("--steps", 0, Count)
    assert Range(at_least=1).expected(int, 2**70) == f"a whole number from 1 to {2**53}"
    assert Range(above=0, below=1, why="a share").expected(float, 2) == "a number above 0 and below 1 (a share)"


@pytest.mark.parametrize(
    ("size", "asked", "ranks", "fitting"),
    [(8, 8, 1, 8), (8, 8, 2, 4), (8, 3, 1, 2), (12, 5, 2, 3), (14, 4, 1, 2), (26, 8, 2, 1), (4, 100, 2, 2)],
)
def test_the_largest_micro_batch_that_makes_whole_steps_on_all_ranks(size, asked, ranks, fitting):
    trainer = TrainerConfig(global_batch_size=size)
    assert trainer.fitting_micro_batch(asked, ranks) == fitting
    assert size == trainer.accumulate(fitting, ranks) * fitting * ranks
    if fitting != asked:
        with pytest.raises(ValueError, match=rf"micro_batch_size: got {asked}, .*set data\.micro_batch_size={fitting}"):
            trainer.accumulate(asked, ranks)


def test_a_batch_that_ranks_do_not_divide_names_one_that_they_do():
    with pytest.raises(ValueError, match=r"got 6 and 4 processes, expected a multiple of 4; set .*_batch_size=8, or"):
        TrainerConfig(global_batch_size=6).accumulate(1, 4)
