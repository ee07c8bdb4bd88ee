"""A table shows the same cells in a terminal and on a page, and a reason for each that is absent; numbers read well."""

import math

import pytest

from litespark.metrics.step_round import Interval
from litespark.reports import quantities, tables
from litespark.reports.table import Absent, Column, Fact, Table, facts, fenced, one_line, texts
from litespark.run.record_ops import DifferenceRecord, OpRecord, VerificationRecord
from tests.metrics.records.hand_made import make_record
from tests.reports.rows import row

TABLE = Table(
    [*texts("name"), Column("tokens/s", quantities.rate), Column("J/token", quantities.plain)],
    [
        ("a|b", Interval(20_000, 10_000, 30_000, 3), Absent("no counter")),
        ("long name", 5.0, Absent("no counter")),
        ("none", None, math.nan),
    ],
    title="Speeds",
    about=["on a CPU"],
    notes=["a note"],
)


def test_both_forms_have_the_same_cells_and_words():
    assert TABLE.text() == (
        "Speeds\n\non a CPU\n\n"
        "name                           tokens/s  J/token\n"
        "a|b        20.00 k (10.00 k to 30.00 k)        -\n"
        "long name                         5.000        -\n"
        "none                                  -        -\n\n"
        "a note\nJ/token of a|b, long name: no counter"
    )
    assert TABLE.markdown() == (
        "Speeds\n\n- on a CPU\n\n| name | tokens/s | J/token |\n|---|---:|---:|\n"
        "| a\\|b | 20.00 k (10.00 k to 30.00 k) | - |\n| long name | 5.000 | - |\n| none | - | - |\n\n"
        "- a note\n- J/token of a|b, long name: no counter"
    )


def test_a_fact_has_its_reason_in_place_of_what_is_known_of_it():
    table = facts(
        [
            Fact("speed", 0.0, quantities.rate, "a second", "too short"),
            Fact("energy", None, quantities.plain, "of the board", "no counter"),
        ]
    )
    assert table.cells == [["speed", "0", "a second"], ["energy", "not measured", "no counter"]]
    assert facts([Fact("what", "it is")]).header == ["what", "value"]


@pytest.mark.parametrize("text", ["plain", "```", "a ````` b", "`"])
def test_no_text_ends_its_fence(text):
    first, *inside, last = fenced(text).splitlines()
    assert (first, "\n".join(inside)) == (f"{last}text", text)
    assert last not in text


def test_a_line_holds_what_can_be_printed_and_codes():
    for text in ("\x1b[31mred\x00", "abc\u202edef", "\ud800"):
        assert one_line(text) == text.encode("unicode_escape").decode()
    assert one_line("a\n b\t\u2028c 漢字 🙂") == "a b c 漢字 🙂"
    assert one_line("abcdefghijkl", longest=11) == "abcdefghij…"


ABSENT = "not measured"
WRITTEN = {
    quantities.plain: [
        ((3.14159,), "3.142"), ((12.3,), "12.30"), ((1234.56, "W"), "1,235 W"), ((0.001234,), "0.001234"),
        ((-2.5,), "-2.500"), ((0.0,), "0"), ((9.9996,), "10.00"), ((None,), ABSENT), ((math.nan,), ABSENT),
        ((math.inf,), ABSENT),
    ],
    quantities.scaled: [
        ((3.003e9,), "3.003 B"), ((32_768.0,), "32.77 k"), ((999.96,), "1.000 k"), ((0.25,), "0.2500"),
        ((0.0712, "J"), "71.20 mJ"), ((989.5e12, "FLOP/s"), "989.5 TFLOP/s"), ((3e9, "J"), "3.000 GJ"),
        ((2e-13, "J"), "0.0002000 nJ"), ((0.0, "J"), "0 J"), ((None, "J"), ABSENT),
    ],
    quantities.duration: [
        ((0.812,), "812 ms"), ((41.2,), "41.2 s"), ((59.97,), "1 min 00 s"), ((185.0,), "3 min 05 s"),
        ((3599.7,), "1 h 00 min"), ((7800.0,), "2 h 10 min"), ((12 * 86400 + 4 * 3600.0,), "12 d 4 h"),
        ((None,), ABSENT),
    ],
    quantities.rate: [((2870.4,), "2,870"), ((9999.4,), "9,999"), ((9999.6,), "10.00 k"), ((None,), ABSENT)],
    quantities.count: [((1234,), "1,234"), ((12_345,), "12.35 k"), ((None,), ABSENT)],
    quantities.percent: [((0.4834,), "48.3 %"), ((1.0,), "100 %"), ((math.nan,), ABSENT)],
    quantities.joules: [((812.0,), "812.0 J"), ((1.234e6,), "1.234 MJ (0.3428 kWh)"), ((None,), ABSENT)],
}  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN)
def test_numbers_have_units_and_sensible_digits(written):
    for arguments, text in WRITTEN[written]:
        assert written(*arguments) == text


@pytest.mark.parametrize(
    ("exact", "near", "shown"),
    [(0.0, 1e-4, "1.0e-04 (1.0e-03) near"), (0.0, 0.0, "0.0e+00 (0.0e+00) exact"), (1e-9, 1e-4, "1.0e-09 (0.0e+00)")],
)
def test_the_table_of_ops_shows_the_tensor_nearest_to_its_bound(exact, near, shown):
    differences = [DifferenceRecord("exact", exact, 0.0), DifferenceRecord("near", near, 1e-3)]
    case = VerificationRecord("triton", "cast", "2 x 2", "bf16", False, 0.1, True, differences, None)
    record = make_record(ops=[OpRecord("fp8", "auto", "triton", verifications=[case])])
    assert shown in row(tables.ops(record), "fp8")[2]
