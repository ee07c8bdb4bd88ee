"""The one table: its rows are written once, and shown in a terminal (rich) or on a page (Markdown)."""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import rich.table
from rich.console import Console
from rich.text import Text

from litespark.metrics.step_round import Interval
from litespark.reports.quantities import ABSENT, is_measured

NONE = "-"


class Absent(NamedTuple):
    """The value of a cell that was not measured, with the reason, which stands below the table."""

    reason: str


@dataclass(frozen=True)
class Column:
    """A column: how its values are written, what stands for None, NaN and `Absent`, and whether cells end together."""

    name: str
    written: Callable[[Any], str] = str
    absent: str = NONE
    numbers: bool = True

    def cell(self, value: Any) -> str:
        """A value as text: a text as it is, an interval as its median with the lowest and the highest."""
        if isinstance(value, str):
            return value
        if _is_absent(value):
            return self.absent
        if isinstance(value, Interval):
            middle, low, high = map(self.written, (value.median, value.low, value.high))
            return middle if low == high else f"{middle} ({low} to {high})"
        return self.written(value)


def _is_absent(value: Any) -> bool:
    return value is None or isinstance(value, Absent) or (isinstance(value, float) and not is_measured(value))


def texts(*names: str) -> list[Column]:
    return [Column(name, numbers=False) for name in names]


@dataclass(frozen=True)
class Table:
    """Rows under columns, with what is to be known before and after them; without rows only that is shown."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    about: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def header(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        return [[column.cell(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    @property
    def all_notes(self) -> list[str]:
        """The notes, and each reason of what is absent with the columns and rows that it is for."""
        places: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        for row, written in zip(self.rows, self.cells, strict=True):
            for column, value in zip(self.columns, row, strict=True):
                if isinstance(value, Absent):
                    names, rows = places.setdefault(value.reason, ({}, {}))
                    names[column.name] = rows[written[0]] = None
        reasons = [
            ", ".join(names) + ("" if len(rows) == len(self.rows) else f" of {', '.join(rows)}") + f": {reason}"
            for reason, (names, rows) in places.items()
        ]
        return list(dict.fromkeys([*self.notes, *reasons]))

    def markdown(self) -> str:
        """For a page; bars and line breaks inside the cells are escaped."""

        def line(cells: Iterable[str]) -> str:
            return f"| {' | '.join(map(escaped, cells))} |"

        rule = "|" + "|".join("---:" if column.numbers else "---" for column in self.columns) + "|"
        table = "\n".join([line(self.header), rule, *map(line, self.cells)]) if self.rows else ""
        return _paragraphs(self.title, bulleted(self.about), table, bulleted(self.all_notes))

    _repr_markdown_ = markdown  # how a notebook shows it

    def text(self) -> str:
        """For a terminal: aligned and never cut, whatever its width."""
        table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        for column in self.columns:
            table.add_column(Text(column.name), justify="right" if column.numbers else "left", no_wrap=True)
        for row in self.cells:
            table.add_row(*(Text(cell.replace("\n", " ")) for cell in row))
        printed = io.StringIO()
        if self.rows:
            Console(file=printed, width=100_000, color_system=None, legacy_windows=False).print(table)
        aligned = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
        return _paragraphs(self.title, "\n".join(self.about), aligned, "\n".join(self.all_notes))


def text(tables: Iterable[Table]) -> str:
    return "\n\n".join(table.text() for table in tables)


def markdown(tables: Iterable[Table]) -> str:
    return "\n\n".join(table.markdown() for table in tables)


class Fact(NamedTuple):
    """A row of a table of single figures; `about` is to be known of it, without a value `reason` stands there."""

    what: str
    value: Any
    written: Callable[[Any], str] = str
    about: str = ""
    reason: str = ""

    @property
    def absent(self) -> bool:
        return _is_absent(self.value)


def facts(rows: Sequence[Fact], value: str = "value", absent: str = ABSENT, title: str = "") -> Table:
    """Single figures one below the other in a column `value`; a third column where one has something to be known."""
    width = 3 if any(fact.about or fact.reason for fact in rows) else 2
    cells = [
        (
            fact.what,
            Column(value, fact.written, absent).cell(fact.value),
            (fact.reason if fact.absent else "") or fact.about,
        )[:width]
        for fact in rows
    ]
    return Table(texts("what", value, "about it")[:width], cells, title=title)


def escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def bulleted(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def fenced(text: str) -> str:
    """A block of text in which nothing is read as Markdown, whatever it holds."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall(r"`+", text))])
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def one_line(text: str, longest: int | None = None) -> str:
    """The text without line breaks, cut to `longest` characters, what cannot be printed by its code (\\x1b)."""
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(text.split())
    )
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
