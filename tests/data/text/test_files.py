"""The files of a source: what a limit takes, and how much text they hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litespark.data.text.files import Source, SourceFile, within


def text_file(name, size):
    return SourceFile("/somewhere", name, size)


def source_of(*files):
    return Source("x", files)


def test_a_limit_takes_at_least_one_file_and_follows_no_order_of_the_listing():
    source = source_of(*(text_file(f"{number:04}.txt", 50 + number) for number in range(20)))
    assert len(within(source, 0).files) == 1
    assert within(source, source.size).files == source.files
    backwards = replace(source, files=source.files[::-1])
    assert within(source, source.size // 3).files == within(backwards, source.size // 3).files
    large = source_of(text_file("a.txt", 10**9))
    assert within(large, 5) == large


def test_a_limit_takes_a_file_that_would_be_most_of_it_only_where_the_others_do_not_suffice():
    small = tuple(text_file(f"small{number:02}", 100) for number in range(20))
    tables = tuple(text_file(f"table{number:02}", 900) for number in range(20))
    source = source_of(*small, *tables)
    assert set(within(source, 1000).files) < set(small)
    assert sum(file in small for file in within(source, 4000).files) == 20
    assert sum(file.size for file in within(source, 4000).files) >= 4000
    assert set(within(source, 8 * 900).files) & set(tables), "no longer large beside that limit"


@pytest.mark.parametrize(
    "name, text_bytes, records",
    [
        ("a.txt", 9, False),
        ("a.jsonl", 9, True),
        ("a.jsonl.ZST", 27, True),
        ("a.json.gz", 27, True),
        ("a.parquet", 27, True),
    ],
)
def test_what_a_name_says_about_a_file(name, text_bytes, records):
    file = text_file(name, 9)
    assert (file.text_bytes, file.holds_records) == (text_bytes, records)
