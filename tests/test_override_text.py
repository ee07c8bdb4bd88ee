"""Whatever a setting is, its text goes through the shell and Hydra and comes back."""

from __future__ import annotations

import math
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.models.llama.config import RopeScaling
from litespark.override_text import override
from tests.properties import given, settings, st
from tests.run.composed import parts

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="$"))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
KEYS = st.from_regex(r"[a-z_]+", fullmatch=True).filter(lambda key: key not in ("null", "true", "false", "inf", "nan"))
VALUES = st.recursive(PLAIN, lambda each: st.lists(each) | st.dictionaries(KEYS, each), max_leaves=5)


def read(text: str) -> object:
    (typed,) = shlex.split(text)
    (parsed,) = OverridesParser.create().parse_overrides([typed])
    assert parsed.key_or_group == "some.key"
    return parsed.value()


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_value_is_read_as_it_was(value):
    assert read(override("some.key", value)) == value


def test_words_that_hydra_would_read_as_something_else_stay_text():
    for text in ("null", "True", "1e3", "12", "1_0", "inf", "-nan", ".5", "", "a b", "it's", '"', "a\\"):
        assert read(override("some.key", text)) == text
    assert math.isnan(read(override("some.key", math.nan)))


def test_a_dataclass_becomes_itself_again_in_a_config():
    scaling = RopeScaling(8.0, 1.0, 4.0, 32)
    for overrides in ([], ["model=llama8b"]):
        typed = shlex.split(override("model.rope_scaling", scaling))
        assert parts(*overrides, *typed).model.rope_scaling == scaling
