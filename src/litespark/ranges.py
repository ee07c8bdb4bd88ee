"""What a number may be, stated at the field of a settings class (`sequences: Count = 16`); pydantic checks it.

A number without a range is an error in the tests. No number may be nan or infinite; a whole number is never true or
false, and never larger than what a float holds exactly; 1e4 is one.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, core_schema

# counts become floats in rates and records
LARGEST_WHOLE = 2**53
# below the largest of fp32, so that a product with a small number still has a value
LARGEST = 1e30


@dataclass(frozen=True)
class Range:
    """Bounds of a number, each included (`at_least`, `at_most`) or not (`above`, `below`); `why` explains them.

    `or_none` also takes None, for which the class that has the field finds a number.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    why: str = ""
    or_none: bool = False

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
            bounds = f"from {plain(self.at_least)} to {plain(at_most)}"
        else:
            words = {"of at least": self.at_least, "above": self.above, "at most": at_most, "below": self.below}
            bounds = " and ".join(f"{word} {plain(bound)}" for word, bound in words.items() if bound is not None)
        return f"a {'whole ' if kind is int else ''}number {bounds}{f' ({self.why})' if self.why else ''}"

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any) -> Any:
            if self.or_none and value is None:
                return None
            if kind is int and isinstance(value, float) and value.is_integer():
                value = int(value)
            if not self.holds(value, kind):
                raise PydanticCustomError("range", "{expected}", {"expected": self.expected(kind, value)})
            return value

        return core_schema.no_info_plain_validator_function(check)


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


def check_number(key: str, value: object, hint: Any) -> None:
    """Refuse, with a ValueError, a single value that is not in the range of the annotation `hint`, such as `Count`."""
    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{key}: got {value!r:.80}, expected {error.errors()[0]['msg']}") from None


def plain(value: Any) -> str:
    """A number as it would be typed."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    whole = isinstance(value, int) or (value == value // 1 and abs(value) < 1e6)
    return str(int(value)) if whole else f"{value:g}"
