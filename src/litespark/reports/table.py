"""The one table: its rows are written once, and shown in a terminal (rich) or on a page (Markdown)."""

from __future__ import annotations

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
    """A column: how its values are written, and what stands where there is none.

    Attributes:
        name: with the unit, where the values have one that is not written beside each.
        written: a value as text; an interval is its median with the lowest and the highest.
        absent: stands for None, NaN and `Absent`.
        numbers: whether its cells end together, as numbers do.
    """

    name: str
    written: Callable[[Any], str] = str
    absent: str = NONE
    numbers: bool = True

    def cell(self, value: Any) -> str:
        """A value as text; a text stays as it is."""
        if isinstance(value, str):
            return value
        if value is None or isinstance(value, Absent) or (isinstance(value, float) and not is_measured(value)):
            return self.absent
        if isinstance(value, Interval):
            middle, low, high = map(self.written, (value.median, value.low, value.high))
            return middle if low == high else f"{middle} ({low} to {high})"
        return self.written(value)


def texts(*names: str) -> list[Column]:
    """Columns of words."""
    return [Column(name, numbers=False) for name in names]


@dataclass(frozen=True)
class Table:
    """Rows under columns, with what is to be known before and after them; without rows only that is shown.

    The reasons of absent values (`Absent`) come after the notes, each once with the columns and rows that it is for.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    about: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def header(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """Every row as it is shown."""
        return [[column.cell(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    @property
    def all_notes(self) -> list[str]:
        """The notes, and the reasons of what is absent."""
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
            return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

        rule = "|" + "|".join("---:" if column.numbers else "---" for column in self.columns) + "|"
        table = "\n".join([line(self.header), rule, *map(line, self.cells)]) if self.rows else ""
        parts = [self.title, bulleted(self.about), table, bulleted(self.all_notes)]
        return "\n\n".join(part for part in parts if part)

    _repr_markdown_ = markdown  # how a notebook shows it

    def text(self) -> str:
        """For a terminal: aligned and never cut, whatever its width."""
        table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
        for column in self.columns:
            table.add_column(Text(column.name), justify="right" if column.numbers else "left", no_wrap=True)
        for row in self.cells:
            table.add_row(*(Text(cell.replace("\n", " ")) for cell in row))
        console = Console(file=io.StringIO(), width=100_000, color_system=None, legacy_windows=False)
        with console.capture() as captured:
            console.print(table)
        aligned = "\n".join(line.rstrip() for line in captured.get().splitlines()) if self.rows else ""
        parts = [self.title, "\n".join(self.about), aligned, "\n".join(self.all_notes)]
        return "\n\n".join(part for part in parts if part)


def text(tables: Iterable[Table]) -> str:
    """Tables one below the other, for a terminal."""
    return "\n\n".join(table.text() for table in tables)


def markdown(tables: Iterable[Table]) -> str:
    """Tables one below the other, for a page."""
    return "\n\n".join(table.markdown() for table in tables)


class Fact(NamedTuple):
    """A row of a table of single figures: what it is, its value, how that is written, and what is to be known of it.

    Without a value `reason` stands in the place of `about`.
    """

    what: str
    value: Any
    written: Callable[[Any], str] = str
    about: str = ""
    reason: str = ""

    @property
    def absent(self) -> bool:
        """Whether there is no value."""
        return self.value is None or (isinstance(self.value, float) and not is_measured(self.value))


def facts(rows: Sequence[Fact], value: str = "value", absent: str = ABSENT, title: str = "") -> Table:
    """Single figures one below the other, each with its own unit; a third column where one has something to be known.

    Args:
        rows: the figures.
        value: the name of their column.
        absent: stands where one has no value.
        title: stands before the table.
    """
    explained = any(fact.about or fact.reason for fact in rows)
    cells = []
    for fact in rows:
        written = Column(value, fact.written, absent).cell(None if fact.absent else fact.value)
        cells.append((fact.what, written, (fact.reason if fact.absent else "") or fact.about)[: 2 + explained])
    return Table(texts("what", value, "about it")[: 2 + explained], cells, title=title)


def bulleted(lines: Iterable[str]) -> str:
    """The lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def fenced(text: str) -> str:
    """A block of text in which nothing is read as Markdown, whatever it holds."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def one_line(text: str, longest: int | None = None) -> str:
    """The text without line breaks, cut to `longest` characters.

    What cannot be printed, or would turn the text around, is shown by its code, as \\x1b.
    """
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(text.split())
    )
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"
