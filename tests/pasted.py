"""The files that CONTRIBUTING.md shows: a path at the end of a paragraph, and the block of code below it."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
_FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n\n( *```\w+\n)(.*?)^ *```", re.DOTALL | re.MULTILINE)


def shown_files() -> dict[str, str]:
    """Path -> content: "mypkg/pairs.py", "configs/task/pairs.yaml"."""
    return {path: textwrap.dedent(content) for path, _, content in _FILE.findall(CONTRIBUTING.read_text())}


def shown_block(before: str) -> str:
    """The block of code that comes next behind the text `before`."""
    text = CONTRIBUTING.read_text()
    return re.findall(r"```\w+\n(.*?)```", text[text.index(before) :], re.DOTALL)[0]
