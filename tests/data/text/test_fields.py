"""Advice about fields, as a shell and Hydra take it."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.data.text.fields import nearest_first, pasted


@pytest.mark.parametrize(
    "name",
    [
        "text",
        "meta.set",
        "null",
        "True",
        "12",
        "my text",
        'a"b',
        "a\\",
        'a\\"b',
        "it's",
        "ünïcode",
        "a,b",
        "[x]",
        "a=b",
    ],
)
def test_a_field_of_any_name_can_be_set_as_the_advice_has_it(name):
    (word,) = shlex.split(pasted("data.text_field", name))
    override = OverridesParser.create().parse_override(word)
    value = override.value()
    assert (override.key_or_group, getattr(value, "text", value)) == ("data.text_field", name)


def test_the_nearest_name_comes_first_whatever_its_case():
    assert nearest_first(["meta.url", "TEXT", "id", "txt"], "text")[:2] == ["TEXT", "txt"]
