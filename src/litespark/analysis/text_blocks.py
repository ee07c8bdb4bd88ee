"""Pieces of text that several reports are made of: columns for the terminal, a fenced block, a printable line."""

from __future__ import annotations

import re
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], text_columns: int = 1) -> list[str]:
    """The lines of a table for the terminal; the first columns hold text and begin together, the others end so."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


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
