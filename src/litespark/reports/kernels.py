"""What compiled kernels take on every target, and what they issue: what the compiler states, and no speed.

The page is the same on every machine for one commit and the versions that its head names.
"""

import platform
from pathlib import Path
from typing import Any

import torch

from litespark import __version__
from litespark.metrics.environment import git_state, version_of
from litespark.ops.compilation import Attempt, Compiled
from litespark.ops.occupancy import BOUND_TARGET, BYTES_A_SECOND, CLOCK, memory_share, programs_at_once
from litespark.ops.triton_support import TARGETS
from litespark.reports.table import Column, Table, bulleted, texts

_NEEDS = ("registers", "stack bytes", "shared bytes", "limit")
_CODE = (
    "instructions", "a value", "a byte", "128-bit loads", "128-bit stores", "asynchronous", "local in loops",
    "barriers", "products",
)  # fmt: skip
_BOUND = ("programs", "KiB on their way", "bound: share of memory's rate")
_EXPLAINED = f"""\
Instructions are counted in the text of the kernel, without NOP. A value: of a kernel without loops, by the values that
a thread has of the launch's smallest tensor that has at least half as many as its largest (of SwiGLU, values of the
product). A byte: of its busiest innermost loop, or of all where there is none, by what a thread reads and writes of
global memory there. Loads and stores are those of global memory of 16 bytes and more, of all; asynchronous ones go past
the registers. Local memory is where spilled registers go. Barriers are those of one time round the innermost loop that
has most of them. Programs are those that one multiprocessor of {BOUND_TARGET} holds at once, and KiB on their way what
their loads ask for, each once. The bound is no measurement: the share of {BYTES_A_SECOND / 1e12:.1f} TB/s that an H200
reaches by the instructions that it can issue at {CLOCK / 1e9:.3f} GHz, were there nothing else to wait for."""


def page(compiled: Compiled) -> str:
    """The versions, the table, and what does not fit, in Markdown."""
    commit, dirty = git_state(Path(__file__).parent)
    state = "without git" if commit is None else f"commit {commit[:12]}{' with changes' if dirty else ''}"
    columns = [*texts("kernel", "configuration", "target"), *map(Column, _NEEDS)]
    columns += [*map(Column, _CODE[:-1]), *texts(_CODE[-1]), *map(Column, _BOUND)]
    rows = [_row(made) for made in sorted(compiled.attempts, key=lambda made: made.kernel)]
    parts = [
        "# Kernels, compiled without a device",
        f"Made by `{compiled.command}` of litespark {__version__} ({state}) with torch {torch.__version__}, triton "
        f"{version_of('triton')}, Python {platform.python_version()}.",
        "Registers and stack (where spilled registers go) are per thread, shared memory (LDS) per program; the "
        "limit is the target's. Registers of gfx942 are both kinds of vector registers together.",
        _EXPLAINED,
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
    taken = [made.kernel, configuration, made.target, *figures, TARGETS[made.target].shared_bytes]
    return [*taken, *_code(made), *_bound(made)]


def _code(made: Attempt) -> list[Any]:
    code = made.code
    if code is None:
        return [None] * len(_CODE)
    products = " ".join(f"{name} {count}" for name, count in code.products.items()) or None
    return [
        code.instructions,
        _rounded(made.instructions_a_value),
        _rounded(code.a_byte),
        f"{code.loads.wide} of {code.loads.wide + code.loads.narrow}",
        f"{code.stores.wide} of {code.stores.wide + code.stores.narrow}",
        code.asynchronous,
        code.local_in_loops,
        code.barriers,
        products,
    ]


def _bound(made: Attempt) -> list[Any]:
    if made.target != BOUND_TARGET or made.code is None or made.resources is None:
        return [None] * len(_BOUND)
    programs = programs_at_once(made.resources, made.num_warps)
    loaded = (made.code.loads.wide_bytes + made.code.loads.narrow_bytes) * made.num_warps * 32
    share = memory_share(made.code)
    return [programs, _rounded(programs * loaded / 1024), None if share is None else f"{share:.0%}"]


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 1)
