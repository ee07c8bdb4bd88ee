"""Numbers as people read them: a unit, an SI prefix, four significant digits, and words for what was not measured."""

import math
from typing import TypeGuard

ABSENT = "not measured"


def is_measured(value: float | None) -> TypeGuard[float]:
    """Whether the value is a finite number; None and NaN mean "not measured"."""
    return value is not None and math.isfinite(value)


def plain(value: float | None, unit: str = "", digits: int = 4) -> str:
    """`value` with `digits` significant digits and never in powers of ten: 3.142, 12.30, 1,235 W."""
    if not is_measured(value):
        return ABSENT
    text = "0"
    if value:
        rounded = float(f"{value:.{digits - 1}e}")  # 9.9996 has two digits before the point once it is rounded
        text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"
    return f"{text} {unit}".rstrip()


def short(value: float | None) -> str:
    return plain(value, digits=3)


def scaled(value: float | None, unit: str = "", digits: int = 4) -> str:
    """`value` with an SI prefix: 3.003 B for 3,003,000,000 things without a unit, 12.30 kJ, 71.20 mJ/token."""
    if not is_measured(value):
        return ABSENT
    # plain counts take the words of the field (B for billion), units take SI prefixes
    large = ["", "k", "M", "G", "T", "P", "E"] if unit else ["", "k", "M", "B", "T"]
    small = ["", "m", "µ", "n"] if unit else [""]
    exponent = math.floor(math.log10(abs(value)) / 3) if value else 0
    exponent = max(1 - len(small), min(len(large) - 1, exponent))
    # 999.96 would print as 1,000 with four digits: it belongs to the next prefix
    if 0 <= exponent < len(large) - 1 and float(f"{abs(value) / 1000**exponent:.{digits}g}") >= 1000:
        exponent += 1
    prefix = large[exponent] if exponent >= 0 else small[-exponent]
    return f"{plain(value / 1000.0**exponent, '', digits)} {prefix}{unit}".rstrip()


def count(value: int | None) -> str:
    """A number of things in full below ten thousand, else with a prefix: 1,234 · 12.35 k · 3.003 B."""
    return f"{value:,}" if value is not None and abs(value) < 10_000 else scaled(value)


def rate(value: float | None) -> str:
    """Things a second: in full below ten thousand, else with a prefix: 2,870 · 32.77 k."""
    return plain(value) if not is_measured(value) or abs(value) < 9_999.5 else scaled(value)


def percent(fraction: float | None) -> str:
    """A fraction as a percentage with three significant digits: 48.3 %, 0.0512 %."""
    return plain(100 * fraction, "%", digits=3) if is_measured(fraction) else ABSENT


def joules(value: float | None) -> str:
    """Joules with a prefix, and in kWh beside it from 0.1 kWh: 812.0 J, 1.234 MJ (0.3428 kWh)."""
    text = scaled(value, "J")
    return text if not is_measured(value) or value < 0.36e6 else f"{text} ({plain(value / 3.6e6)} kWh)"


def duration(seconds: float | None) -> str:
    """Seconds as people say it: 812 ms, 41.2 s, 3 min 05 s, 2 h 10 min, 12 d 4 h."""
    if not is_measured(seconds):
        return ABSENT
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole, minutes, hours = round(seconds), round(seconds / 60), round(seconds / 3600)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 2 * 24 * 60 else f"{hours // 24} d {hours % 24} h"
