"""Pieces of text that several reports are made of: aligned columns, a list, a fenced block, a printable line."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]], text_columns: Container[int] | None = (0,)) -> list[str]:
    """The lines of a table for the terminal.

    Args:
        rows: of cells, the header among them.
        text_columns: which columns begin together, as text does; the others end so, as numbers do. None: all are text.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if text_columns is None or column in text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


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
