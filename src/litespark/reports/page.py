"""Pages made of templates (`templates/*.md.j2`), and how a page is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from litespark.reports.table import Table, bulleted, fenced, markdown

_ENVIRONMENT = Environment(
    loader=PackageLoader("litespark.reports"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    keep_trailing_newline=False, autoescape=False,
)  # fmt: skip


def _markdown(shown: Table | Iterable[Table] | str) -> str:
    """Tables as Markdown; a text as it is."""
    if isinstance(shown, str):
        return shown
    return shown.markdown() if isinstance(shown, Table) else markdown(shown)


_ENVIRONMENT.filters |= {"md": _markdown, "fenced": fenced, "bulleted": bulleted}


def render(template: str, **values: Any) -> str:
    """The page of a template, without a line break at its end."""
    return _ENVIRONMENT.get_template(f"{template}.md.j2").render(values).strip()


def write(path: Path, text: str) -> Path:
    """Write through a temporary file, so that an older page stays whole until the new one is; returns the path."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)
    return path
