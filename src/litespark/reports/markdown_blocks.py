"""A Markdown text cut into paragraphs, items of lists, rows of tables and blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass

BEGIN = "<!-- rendered by `litespark results`: edits between these two lines are overwritten -->"
END = "<!-- end of what is rendered -->"
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"`[^`]*`")


@dataclass(frozen=True)
class Block:
    """A paragraph, an item of a list, a row of a table or a block of code, with its first line; `group` is whole
    where it is part of one: the number of its first row."""

    line: int
    text: str
    group: int
    header: str = ""


def blocks(text: str) -> list[Block]:
    """The blocks of a Markdown text; what lies between the markers of a rendering is left out.

    A comment that is shown as code is none, and is changed so that nobody takes it for one.
    """
    found: list[Block] = []
    open_lines: list[str] = []
    first = group = 0
    header, fenced, rendered = "", False, False

    def close() -> None:
        if open_lines:
            found.append(Block(first, "\n".join(open_lines), group, header))
            open_lines.clear()

    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped in (BEGIN, END):
            close()
            rendered = stripped == BEGIN
            continue
        if rendered:
            continue
        is_fence = stripped.startswith("```")
        if fenced:
            line = line.replace("<!--", "<! --")
        else:
            line = _CODE.sub(lambda found: found[0].replace("<!--", "<! --"), line)
            stripped = line.strip()
        is_row = stripped.startswith("|") and not fenced
        alone = bool(stripped) and not COMMENT.sub("", stripped) and not fenced
        begins = is_row or alone or bool(re.match(r"([-*+]|\d+\.|#+) ", stripped)) or (is_fence and not fenced)
        if not fenced and (not stripped or begins):
            close()
        if not stripped and not fenced:
            header = ""
            continue
        if not open_lines:
            first = number
            if is_row:
                group, header = (group, header) if header else (number, stripped)
            else:
                group, header = number, ""
        open_lines.append(stripped if is_row else line)
        fenced ^= is_fence
        if is_row or alone or (is_fence and not fenced):
            close()
    close()
    return found


def markdown_of_notebook(text: str) -> str:
    """The Markdown cells of a notebook in jupytext's percent format; other lines are empty, so that numbers stay."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith("# %%"):
            inside = "[markdown]" in line
            lines.append("")
        else:
            lines.append(line.removeprefix("#").removeprefix(" ") if inside else "")
    return "\n".join(lines)
