"""What every class of settings is: a frozen pydantic dataclass that refuses all its faults in one error.

    @settings("optim")
    class AdamW:
        lr: Annotated[Positive, MAY_CHANGE] = 3e-4
        \"\"\"Peak learning rate.\"\"\"

A fault names the key, what was got, what was expected, and what can be pasted instead.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args

import pydantic.dataclasses
from pydantic import ConfigDict, Field, Strict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from litespark.config.spelling import advice_for
from litespark.ranges import plain

Made = TypeVar("Made", bound=type)
# 1 and "yes" are none
Switch = Annotated[bool, Strict()]


class Resume(Enum):
    """Whether a run that is resumed may go on with another value; said at the class, and at a field that differs."""

    MAY_CHANGE = "yes"
    FIXED = "no"
    BY_CONTENT = "if the data is the same"
    """Compared by what was prepared, see `litespark.run.run_data`."""
    NOT_COMPARED = "it is of this start"


MAY_CHANGE, FIXED, BY_CONTENT, NOT_COMPARED = Resume


class SettingsError(ValueError):
    """Settings that cannot be: all faults, a message each."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = faults
        super().__init__(together(faults))


def together(faults: Sequence[str]) -> str:
    return faults[0] if len(faults) == 1 else "\n- ".join([f"{len(faults)} settings cannot be taken:", *faults])


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def settings(
    at: str, *, kw_only: bool = False, resume: Resume = MAY_CHANGE, options: Mapping[str, str] | None = None
) -> Callable[[Made], Made]:
    """Make a class one of settings, of the group `at`; "--" is a command, whose `options` may have other names."""

    def decorate(kind: Made) -> Made:
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)
        made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=kw_only, config=config)(kind)
        checked = made.__init__

        def init(self: Any, *args: Any, **values: Any) -> None:
            try:
                checked(self, *args, **values)
            except ValidationError as error:
                raise SettingsError([_fault(type(self), fault) for fault in error.errors()]) from None

        init.__wrapped__ = checked  # type: ignore[attr-defined]
        made.__init__ = init
        made.__settings_at__, made.__settings_options__ = at, options or {}
        made.__settings_resume__ = {
            **getattr(made, "__settings_resume__", {}),
            **dict.fromkeys(kind.__annotations__, resume),
        }
        return made

    return decorate


def resume_rules(kind: type, at: str) -> Iterator[tuple[str, Resume]]:
    """(key, whether a resume may change it) of each setting of a class, nested ones too."""
    for name, field in fields_of(kind).items():
        if (inner := settings_in(field.annotation)) is not None:
            yield from resume_rules(inner, f"{at}.{name}")
        stated = [mark for mark in field.metadata if isinstance(mark, Resume)]
        yield f"{at}.{name}", stated[0] if stated else kind.__settings_resume__[name]  # type: ignore[attr-defined]


def fields_of(kind: type) -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = kind.__pydantic_fields__  # type: ignore[attr-defined]
    return fields


def meaning_of(kind: type, name: str) -> str:
    """What stands below a setting, in the class that defines it."""
    owners = [base for base in kind.__mro__ if name in vars(base).get("__pydantic_fields__", {})]
    return next((text for owner in owners if (text := fields_of(owner)[name].description)), "")


def settings_in(annotation: Any) -> type | None:
    """The class of settings that an annotation names, alone or beside None."""
    options = (annotation, *get_args(annotation))
    return next((option for option in options if hasattr(option, "__settings_at__")), None)


def default_of(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else value


def _fault(kind: Any, fault: ErrorDetails) -> str:
    if fault["type"] == "value_error":  # of __post_init__, which gives the whole message
        return str(fault["ctx"]["error"])
    place, got = tuple(fault["loc"]), fault["input"]
    owner, field, depth = kind, None, 0
    for depth_of, name in enumerate(place, 1):
        if owner is not None and str(name) in fields_of(owner):
            field, depth = fields_of(owner)[str(name)], depth_of
            owner = settings_in(field.annotation)
    key = _key(kind, place)
    if fault["type"] == "unexpected_keyword_argument":
        beside = [_key(kind, (*place[:-1], name)) for name in fields_of(owner or kind)]
        return unknown(key, got, [*beside, *(_key(kind, (name,)) for name in fields_of(kind))])
    nullable = field is not None and type(None) in get_args(field.annotation)
    stated = str(fault.get("ctx", {}).get("expected", "")).replace("'", "")
    stated = stated.replace("True", "true").replace("False", "false")
    expected = _EXPECTED.get(fault["type"]) or stated or fault["msg"]
    null = " or null" if nullable and fault["type"] != "range" else ""
    shown = "nothing" if fault["type"] == "missing" else f"{got!r:.80}"
    remedy = "" if field is None else _remedy(_key(kind, place[:depth]), got, expected, field, nullable)
    return f"{key}: got {shown}, expected {expected}{null}{remedy}"


_EXPECTED = {
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping of settings",
    "missing": "a value",
    "too_long": "a shorter list",
    "string_too_short": "a text that is not empty",
}


def unknown(key: str, value: Any, known: Sequence[str]) -> str:
    """What to say of a key that there is none of."""
    advice = advice_for(key, None if isinstance(value, dict | list) else str(value), known) or "take it out"
    shown = value if isinstance(value, str) else repr(value)  # as it was typed
    return f"{key}: got {shown:.80}, but there is no such setting; {advice}"


def _key(kind: Any, place: tuple[Any, ...]) -> str:
    at = kind.__settings_at__
    if at == "--":
        return str(kind.__settings_options__.get(place[0], f"--{str(place[0]).replace('_', '-')}"))
    return (at + "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in place)).lstrip(".")


def _remedy(key: str, got: Any, expected: str, field: FieldInfo, nullable: bool) -> str:
    option, default = key.startswith("--"), default_of(field)
    sign, ways = " " if option else "=", []
    if isinstance(got, float) and expected.startswith("a whole") and abs(got) < 1e9:
        ways.append(f"{key}{sign}{max(1, round(got))}")
    elif isinstance(default, tuple) and default:
        listed = ",".join(map(plain, default))
        ways.append(f"{key} {listed}" if option else f"'{key}=[{listed}]'")
    elif isinstance(default, bool | int | float | str) and default != "":
        ways.append(f"{key}{sign}{plain(default).lower() if isinstance(default, bool) else plain(default)}")
    elif field.examples and isinstance(example := field.examples[0], dict):
        ways.append(f"'{key}={{{', '.join(f'{name}: {value}' for name, value in example.items())}}}'")
    elif field.examples:
        ways.append(f"{key}{sign}{field.examples[0]}")
    if nullable:
        ways.append("leave it out" if option else f"{key}=null")
    return f"; set {' or '.join(ways)}" if ways else ""
