"""Figures in documents, rendered from the records between two marks.

    <!-- from results/DEVICE/FILE.json: record.quality.bits_per_byte | plain -->1.930<!-- end -->

An expression is one of jinja2 over `record`, and of a benchmark of steps or of trained variants also over `rows` and
`ratios`, of tasks over `rows` and the table `compared`; its filters write numbers as all tables do, and a value that
was not measured is an error.
`<!-- from results: page -->` stands before the page of all records, and `: families -->` behind the source file of the
table of families before that table. A mark after a backtick is shown and not rendered.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, Undefined

from litespark.metrics.records.index import read_entry, read_index
from litespark.metrics.records.step import StepRecord
from litespark.metrics.records.tasks import TasksRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.metrics.step_round import Interval
from litespark.reports import families, quantities, results, step_rows, tasks, training
from litespark.reports.page import Templates
from litespark.reports.table import Column

_MARK = re.compile(
    r"(?<!`)(?P<begin><!-- from (?P<source>[^\s:]+): (?P<expression>.+?) -->)(?P<shown>.*?)<!-- end -->", re.DOTALL
)
_DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "results/*.md", "notebooks/*.py")


def write_documents(root: Path) -> list[Path]:
    """Render every mark of every document below `root`, or none where one is a ValueError; returns what changed."""
    if problems := read_index(root / "results")[1]:
        raise ValueError("\n".join(problems))
    old = documents(root)
    new = {path: rendered(text, root) for path, text in old.items()}
    changed = [path for path in new if new[path] != old[path]]
    for path in changed:
        path.write_text(new[path], encoding="utf-8")
    return changed


def check_documents(root: Path) -> list[str]:
    """One line for each record that is refused, and each mark whose figure is not that of its record."""
    if problems := read_index(root / "results")[1]:
        return problems
    return [problem for path, text in documents(root).items() for problem in _stale(text, path.relative_to(root), root)]


def documents(root: Path) -> dict[Path, str]:
    paths = [path for pattern in _DOCUMENTS for path in sorted(root.glob(pattern))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def rendered(text: str, root: Path) -> str:
    return _MARK.sub(lambda mark: f"{mark['begin']}{_value_of(mark, root)}<!-- end -->", text)


def _stale(text: str, name: Path, root: Path) -> Iterator[str]:
    for mark in _MARK.finditer(text):
        where = f"{name}:{text[: mark.start()].count(chr(10)) + 1}"
        try:
            value = _value_of(mark, root)
        except (ValueError, OSError) as error:
            yield f"{where}: {' '.join(str(error).split())}"
            continue
        if value != mark["shown"]:
            shown, expected = (" ".join(part.split())[:40] for part in (mark["shown"], value))
            yield f"{where}: got {shown!r}, expected {expected!r} of {mark['source']}; run: litespark results"


def _value_of(mark: re.Match[str], root: Path) -> str:
    source = root / mark["source"]
    if not source.exists():
        raise ValueError(f"{mark['source']}: no such record; name one as results/DEVICE/FILE.json")
    if source.is_dir():
        values: dict[str, Any] = {"page": results.page(source)}
    elif source.suffix == ".py":
        values = {"families": families.table().markdown()}
    else:
        values = _values(read_entry(source).record)
    try:
        value = _EXPRESSIONS.from_string("{{ " + mark["expression"] + " }}").render(values)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"{mark['source']}: {mark['expression']}: {error}") from error
    return f"\n\n{value}\n\n" if "\n" in value else value


def _values(record: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"record": record}
    if isinstance(record, TrainingRecord):
        values["rows"] = training.rows(record)
    elif isinstance(record, StepRecord):
        values["rows"] = step_rows.rows(record)
        values["ratios"] = {variant.name: step_rows.ratios(record, variant.name) for variant in record.variants}
    elif isinstance(record, TasksRecord):
        values["rows"] = tasks.rows(record)
        values["compared"] = tasks.ratio_table(record).markdown()
    return values


def _filter(written: Callable[..., str]) -> Callable[..., str]:
    def apply(value: Any, *how: Any) -> str:
        if isinstance(value, Undefined):
            str(value)  # raises and names what is not there
        if isinstance(value, bool) or not isinstance(value, int | float | Interval):
            raise TypeError(f"got {value!r}, expected a number that was measured")
        return Column("", lambda number: written(number, *how)).cell(value)

    return apply


_EXPRESSIONS = Templates()
_EXPRESSIONS.filters |= {
    name: _filter(getattr(quantities, name))
    for name in ("plain", "scaled", "count", "rate", "percent", "joules", "duration")
}
