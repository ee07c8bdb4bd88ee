"""Columns line up, a fence holds whatever stands in it, and a line is one."""

from __future__ import annotations

import pytest

from litespark.reports.text_blocks import aligned, fenced, one_line


def test_columns_of_text_begin_together_and_numbers_end_together():
    assert aligned([("what", "of", "n"), ("a", "longer", "10")], text_columns=range(2)) == [
        "what  of       n",
        "a     longer  10",
    ]
    assert aligned([("a", "b"), ("long", "1")]) == ["a     b", "long  1"]
    assert aligned([("a", "bc"), ("long", "1")], text_columns=None) == ["a     bc", "long  1"]


@pytest.mark.parametrize("text", ["plain", "```", "a ````` b", "`"])
def test_no_text_ends_its_fence(text):
    first, *inside, last = fenced(text).splitlines()
    assert "\n".join(inside) == text
    assert first == f"{last}text"
    assert last not in text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n b\t\u2028c", "a b c"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("abc\u202edef", r"abc\u202edef"),
        ("\ud800", r"\ud800"),
        ("漢字 🙂", "漢字 🙂"),
    ],
)
def test_a_line_holds_what_can_be_printed_and_codes(text, line):
    assert one_line(text) == line


def test_a_long_line_is_cut_with_a_sign():
    assert one_line("abcdef", longest=6) == "abcdef"
    assert one_line("abcdefg", longest=6) == "abcde…"
