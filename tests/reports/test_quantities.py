"""Numbers are written with a unit and sensible digits, and what is absent is said in words."""

import math

import pytest

from litespark.reports import quantities


@pytest.mark.parametrize(
    "value, text",
    [
        (3.14159, "3.142"),
        (12.3, "12.30"),
        (1234.56, "1,235"),
        (123456.0, "123,456"),
        (0.001234, "0.001234"),
        (-2.5, "-2.500"),
        (0.0, "0"),
        (None, "not measured"),
        (math.nan, "not measured"),
        (math.inf, "not measured"),
    ],
)
def test_plain_numbers_have_four_digits_and_no_powers_of_ten(value, text):
    assert quantities.plain(value) == text


@pytest.mark.parametrize(
    "value, unit, text",
    [
        (3.003e9, "", "3.003 B"),
        (32_768.0, "", "32.77 k"),
        (999.0, "", "999.0"),
        (999.96, "", "1.000 k"),
        (0.25, "", "0.2500"),
        (0.0712, "J", "71.20 mJ"),
        (989.5e12, "FLOP/s", "989.5 TFLOP/s"),
        (3e9, "J", "3.000 GJ"),
        (2e-13, "J", "0.0002000 nJ"),
        (0.0, "J", "0 J"),
        (None, "J", "not measured"),
        (math.nan, "", "not measured"),
    ],
)
def test_scaled_numbers_have_a_prefix(value, unit, text):
    assert quantities.scaled(value, unit) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.812, "812 ms"),
        (41.2, "41.2 s"),
        (59.97, "1 min 00 s"),
        (185.0, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7800.0, "2 h 10 min"),
        (12 * 86400 + 4 * 3600.0, "12 d 4 h"),
        (None, "not measured"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert quantities.duration(seconds) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (2870.4, "2,870"),
        (9999.4, "9,999"),
        (9999.6, "10.00 k"),
        (32768, "32.77 k"),
        (0.5, "0.5000"),
        (None, "not measured"),
    ],
)
def test_rates_are_in_full_below_ten_thousand(value, text):
    assert quantities.rate(value) == text


def test_counts_percentages_and_joules():
    assert quantities.count(1234) == "1,234"
    assert quantities.count(12_345) == "12.35 k"
    assert quantities.count(None) == "not measured"
    assert quantities.percent(0.4834) == "48.3 %"
    assert quantities.percent(1.0) == "100 %"
    assert quantities.percent(math.nan) == "not measured"
    assert quantities.joules(812.0) == "812.0 J"
    assert quantities.joules(1.234e6) == "1.234 MJ (0.3428 kWh)"
    assert quantities.joules(None) == "not measured"


def test_seconds_between_two_times_of_a_record():
    assert quantities.seconds_between("2026-01-31T12:00:00+00:00", "2026-01-31T13:00:00+01:00") == 0
    assert quantities.seconds_between("2026-01-31T12:00:00+00:00", "2026-01-31T12:01:02+00:00") == 62
    assert quantities.seconds_between("2026-01-31T12:00:00+00:00", None) is None
