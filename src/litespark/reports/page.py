"""Pages made of templates (`templates/*.md.j2`), in which tables and numbers are written as everywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from litespark.atomic import write_whole
from litespark.reports import quantities
from litespark.reports.table import Table, escaped, fenced, markdown


def _markdown(shown: Table | Iterable[Table]) -> str:
    return shown.markdown() if isinstance(shown, Table) else markdown(shown)


_ENVIRONMENT = Environment(
    loader=PackageLoader("litespark.reports"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    autoescape=False,
)  # fmt: skip
_ENVIRONMENT.filters |= {"md": _markdown, "fenced": fenced, "cell": escaped} | {
    name: getattr(quantities, name) for name in ("plain", "scaled", "count", "rate", "percent", "duration")
}


def render(template: str, **values: Any) -> str:
    """The page of a template, without a line break at its end."""
    return _ENVIRONMENT.get_template(f"{template}.md.j2").render(values).strip()


def write(path: Path, template: str, **values: Any) -> Path:
    """Write the page of a template, so that an older one stays whole until the new one is; returns the path."""
    write_whole(path, f"{render(template, **values)}\n".encode(errors="backslashreplace"))
    return path
