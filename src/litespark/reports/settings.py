"""`docs/settings.md`: every setting, from the classes of the groups."""

import inspect
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from litespark.config.groups import GROUPS, KIND, ROOT, classes_of, on_resume
from litespark.config.settings import default_of, fields_of, meaning_of, settings_in
from litespark.ranges import Range, plain
from litespark.reports.table import Table, texts

_HEAD = """# Settings

Every setting of `train.py` and `litespark`, as `GROUP.NAME=VALUE`. *Default* is that of the group's choice in
`configs/`; an experiment may state another, and `python train.py --cfg job` shows what a run has. *Resume* says whether
a run that is continued may go on with another value. `litespark settings` writes this page from the classes that
`src/litespark/config/groups.py` lists."""


def settings_page(defaults: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    sections = [_HEAD, _section("Of the run", ROOT, "", defaults[("", "")])]
    for group in GROUPS:
        for kind, made in classes_of(group).items():
            title = f"`{group}`" + (f", {KIND} `{kind}`" if kind else "")
            sections.append(_section(title, made, group, defaults[(group, kind)]))
    return "\n\n".join(sections) + "\n"


def _section(title: str, made: type, group: str, defaults: Mapping[str, Any]) -> str:
    about = inspect.cleandoc(made.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    table = Table(texts("setting", "values", "default", "meaning", "resume"), list(_rows(made, group, defaults, made)))
    return "\n\n".join(filter(None, [f"## {title}", about, table.markdown()]))


def _rows(made: type, at: str, defaults: Mapping[str, Any], group: type) -> Iterator[tuple[str, ...]]:
    for name, field in fields_of(made).items():
        key = f"{at}.{name}".lstrip(".")
        inner = settings_in(field.annotation)
        if inner is not None and (key not in defaults or isinstance(defaults[key], Mapping)):
            yield from _rows(inner, key, defaults, group)
            continue
        default = _shown(defaults.get(key, default_of(field)))
        values = _values(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation)
        yield f"`{key}`", values, default, meaning_of(made, name), on_resume(key, group).value


def _values(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = next((rule for rule in hint.__metadata__ if isinstance(rule, Range)), None)
        return _values(inner[0]) if bounds is None else bounds.expected(inner[0], None)
    if origin is Literal:
        return ", ".join(map(_shown, inner))
    if origin in (Union, UnionType):
        return " or ".join(map(_values, inner))
    if origin is tuple:
        return f"a list: {_values(inner[0])}"
    if origin in (dict, Mapping):
        return "a mapping"
    if (settings := settings_in(hint)) is not None:
        return "a mapping: " + ", ".join(f"`{name}`" for name in fields_of(settings))
    return {bool: "`true`, `false`", str: "a text", type(None): "`null`"}.get(hint, "")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(plain, value))}]`"
    return f"`{plain(value)}`" if value != "" else ""
