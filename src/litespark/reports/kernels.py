"""Registers, stack and shared memory of compiled kernels on every target: what the compiler states, and no speed.

The page is the same on every machine for one commit and the versions that its head names.
"""

import platform
from pathlib import Path
from typing import Any

import torch

from litespark import __version__
from litespark.metrics.environment import git_state, version_of
from litespark.ops.compilation import Attempt, Compiled
from litespark.ops.triton_support import TARGETS
from litespark.reports.table import Column, Table, bulleted, texts


def page(compiled: Compiled) -> str:
    """The versions, the table, and what does not fit, in Markdown."""
    commit, dirty = git_state(Path(__file__).parent)
    state = "without git" if commit is None else f"commit {commit[:12]}{' with changes' if dirty else ''}"
    figures = ("registers", "stack bytes", "shared bytes", "limit")
    columns = [*texts("kernel", "configuration", "target"), *map(Column, figures)]
    rows = [_row(made) for made in sorted(compiled.attempts, key=lambda made: made.kernel)]
    parts = [
        "# Kernels, compiled without a device",
        f"Made by `{compiled.command}` of litespark {__version__} ({state}) with torch {torch.__version__}, triton "
        f"{version_of('triton')}, Python {platform.python_version()}.",
        "Registers and stack (where spilled registers go) are per thread, shared memory (LDS) per program; the "
        "limit is the target's. Registers of gfx942 are both kinds of vector registers together.",
        Table(columns, rows).markdown(),
    ]
    for title, listed in (("Not compiled:", compiled.exclusions), ("Not to be launched:", compiled.misfits)):
        parts += [title, bulleted(listed)] if listed else []
    return "\n\n".join(filter(None, parts)) + "\n"


def _row(made: Attempt) -> list[Any]:
    # a name begins with that of the kernel or of what the kernel does: it is not told twice
    configuration = made.name.removeprefix(made.kernel).strip() or None
    needs = made.resources
    figures = (needs.registers, needs.stack_bytes, needs.shared_bytes) if needs else (None, None, None)
    return [made.kernel, configuration, made.target, *figures, TARGETS[made.target].shared_bytes]
