"""What a number may be: stated at the field of a settings class, checked when one is made, the same for options.

    @dataclass(frozen=True)
    class Settings:
        rows: Count = 16
        share: Annotated[float, Range(above=0, below=1)] = 0.05
        every: Count | None = None

        def __post_init__(self) -> None:
            check_ranges(self, "group")

A number without a range is an error in the tests. No number may be nan or infinite; a whole number is never true or
false, and never larger than what a float holds exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

# counts become floats in rates and records
LARGEST_WHOLE = 2**53
# below the largest of fp32, so that a product with a small number still has a value
LARGEST = 1e30


@dataclass(frozen=True)
class Range:
    """Bounds of a number, each included (`at_least`, `at_most`) or not (`above`, `below`); `why` explains them."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    why: str = ""

    def holds(self, value: object, kind: type) -> bool:
        """Whether `value` is a number of `kind` (int or float) in here."""
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
            return False
        return (
            abs(value) <= _LARGEST[kind]  # nan is not
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def expected(self, kind: type, got: object) -> str:
        """In words, for a message about `got`."""
        at_most = self.at_most
        if at_most is None and self.below is None and isinstance(got, int | float) and got > _LARGEST[kind]:
            at_most = _LARGEST[kind]
        if self.at_least is not None and at_most is not None:
            bounds = f"from {_plain(self.at_least)} to {_plain(at_most)}"
        else:
            words = {"of at least": self.at_least, "above": self.above, "at most": at_most, "below": self.below}
            bounds = " and ".join(f"{word} {_plain(bound)}" for word, bound in words.items() if bound is not None)
        return f"a {'whole ' if kind is int else ''}number {bounds}{f' ({self.why})' if self.why else ''}"


_LARGEST = {int: LARGEST_WHOLE, float: LARGEST}
Count = Annotated[int, Range(at_least=1)]
CountFromZero = Annotated[int, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
InnerShare = Annotated[float, Range(above=0, below=1)]
# of a moving average: at 1 nothing new ever counts
Decay = Annotated[float, Range(at_least=0, below=1)]
# below, fp32 has none or few digits left
Epsilon = Annotated[float, Range(at_least=1e-30, at_most=1)]
# what every random generator takes
Seed = Annotated[int, Range(at_least=0, at_most=2**32 - 1)]
# a process for each: a slip of the finger would fill the machine
Processes = Annotated[int, Range(at_least=1, at_most=1024)]
# of a measurement, which is repeated in turns and kept in memory
Repeats = Annotated[int, Range(at_least=1, at_most=100_000)]
# clocks and sockets take no time without end
Seconds = Annotated[float, Range(above=0, at_most=31_536_000, why="a year")]
Minutes = Annotated[float, Range(above=0, at_most=525_600, why="a year")]


def check_ranges(settings: Any, at: str = "", *, options: bool = False, names: Mapping[str, str] | None = None) -> None:
    """Refuse a number of a dataclass that is outside the range of its field.

    Args:
        settings: an instance; fields of other kinds, and other dataclasses in it, are not looked at.
        at: the config group, for messages.
        options: fields are options of a command, named after them.
        names: those of which the names differ.

    Raises:
        ValueError: names the setting, what was got, what was expected and a value that can be set.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        if getattr(settings, field.name) is field.default:  # also where None stands for a number to be found
            continue
        usual = f"--{field.name.replace('_', '-')}" if options else f"{at}.{field.name}"
        key = (names or {}).get(field.name, usual)
        check_number(key, getattr(settings, field.name), hints[field.name], default=field.default)


def check_number(key: str, value: object, hint: Any, *, default: object = None) -> None:
    """Refuse a single value that is not in the range of the annotation `hint`, such as `Count`.

    Raises:
        ValueError: names the key, what was got, what was expected and `default`, where there is one.
    """
    for where, each, kind, range in _numbers(hint, value):
        if not range.holds(each, kind):
            expected = range.expected(kind, each)
            raise ValueError(f"{key}{where}: got {each!r}, expected {expected}{_advice(key, default, hint)}")


def number(hint: Any) -> Callable[[str], Any]:
    """The `type=` of an option of argparse whose value has this annotation, such as `Count`."""
    ((kind, range),) = ranges_of(hint)
    assert range is not None

    def parse(word: str) -> Any:
        try:
            value = kind(word)
        except (ValueError, OverflowError):
            value = word
        if not range.holds(value, kind):
            raise argparse.ArgumentTypeError(f"got {word!r}, expected {range.expected(kind, value)}")
        return value

    return parse


def ranges_of(hint: Any) -> Iterator[tuple[type, Range | None]]:
    """The numbers that an annotation allows, with the range of each or None."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from ((kind, _range_in(hint) or range) for kind, range in ranges_of(hint.__origin__))
    elif hint in (int, float):
        yield hint, None
    elif origin is not None and origin is not type:
        for inner in get_args(hint):
            yield from ranges_of(inner)


def _range_in(hint: Any) -> Range | None:
    return next((each for each in hint.__metadata__ if isinstance(each, Range)), None)


def _numbers(hint: Any, value: Any) -> Iterator[tuple[str, Any, type, Range]]:
    """(where in the value, number, kind, range); null is a number of no range where the annotation allows it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if range := _range_in(hint):
            yield "", value, hint.__origin__, range
    elif origin is tuple and isinstance(value, tuple):
        for index, each in enumerate(value):
            yield from ((f"[{index}]{w}", *rest) for w, *rest in _numbers(inner[0], each))
    elif origin is dict and isinstance(value, dict):
        for name, each in value.items():
            yield from ((f".{name}{w}", *rest) for w, *rest in _numbers(inner[1], each))
    elif origin is not None and not (value is None and type(None) in inner):
        for option in inner:
            yield from _numbers(option, value)


def _advice(key: str, default: Any, hint: Any) -> str:
    """A value that can be pasted, as it would be typed."""
    option = key.startswith("--")
    sign = " " if option else "="
    advice = []
    if isinstance(default, tuple) and default:
        advice.append(f"'{key}=[{','.join(map(_plain, default))}]'")
    elif isinstance(default, int | float):
        advice.append(f"{key}{sign}{_plain(default)}")
    if type(None) in get_args(hint):
        advice.append("leave it out" if option else f"{key}=null")
    return f"; set {' or '.join(advice)}" if advice else ""


def _plain(value: Any) -> str:
    whole = isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e6)
    return str(int(value)) if whole else f"{value:g}"
