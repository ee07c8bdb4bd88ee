"""Pages made of templates (`templates/*.md.j2`), in which tables and numbers are written as everywhere else."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import PackageLoader, StrictUndefined, Undefined
from jinja2.sandbox import SandboxedEnvironment

from litespark.atomic import write_whole
from litespark.reports import quantities
from litespark.reports.table import Table, escaped, fenced, markdown


class Templates(SandboxedEnvironment):
    """jinja in which a property that raises an AttributeError raises it, and does not pass for one that is missing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, **options)

    def getattr(self, obj: Any, attribute: str) -> Any:
        value = super().getattr(obj, attribute)
        if isinstance(value, Undefined) and isinstance(getattr(type(obj), attribute, None), property | cached_property):
            getattr(obj, attribute)
        return value


def _markdown(shown: Table | Iterable[Table]) -> str:
    return shown.markdown() if isinstance(shown, Table) else markdown(shown)


_TEMPLATES = Templates(loader=PackageLoader("litespark.reports"), trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.filters |= {"md": _markdown, "fenced": fenced, "cell": escaped} | {
    name: getattr(quantities, name) for name in ("plain", "scaled", "count", "rate", "percent", "duration")
}


def render(template: str, **values: Any) -> str:
    return _TEMPLATES.get_template(f"{template}.md.j2").render(values).strip()


def write(path: Path, template: str, **values: Any) -> Path:
    """Write the page of a template, so that an older one stays whole until the new one is; returns the path."""
    write_whole(path, f"{render(template, **values)}\n".encode(errors="backslashreplace"))
    return path
