"""`litespark kernels`: registers, stack and shared memory of every kernel on every target, without a GPU.

The table holds what the compiler says and no speed. It is the same on every machine for one commit and the versions
that its head names.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from litespark import __version__
from litespark.metrics.environment import git_state, version_of
from litespark.ops.compilation import Attempt, attempt, compilations, not_for, ops_with_kernels
from litespark.ops.triton_support import TARGETS, interpreting

_COLUMNS = ("kernel", "configuration", "target", "registers", "stack bytes", "shared bytes", "limit")


@dataclass(frozen=True)
class KernelTable:
    """What came of compiling kernels."""

    command: str  # to reproduce it
    attempts: tuple[Attempt, ...]  # one for each configuration and target
    exclusions: tuple[str, ...] = ()  # why the kernels of an op are not for a target, one line each

    @property
    def misfits(self) -> list[str]:
        """Why configurations cannot be launched, one line each."""
        return [" ".join(misfit.split()) for made in self.attempts if (misfit := made.misfit())]

    def markdown(self) -> str:
        """The versions, the table, and what does not fit."""
        commit, dirty = git_state(Path(__file__).parent)
        state = "without git" if commit is None else f"commit {commit[:12]}{' with changes' if dirty else ''}"
        lines = [
            "# Kernels, compiled without a device",
            "",
            f"Made by `{self.command}` of litespark {__version__} ({state}) with torch {torch.__version__}, triton "
            f"{version_of('triton')}, Python {platform.python_version()}.",
            "",
            "Registers and stack (where spilled registers go) are per thread, shared memory (LDS) per program; the "
            "limit is the target's. Registers of gfx942 are both kinds of vector registers together.",
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|---|---|---|{'---:|' * 4}",
            *(_row(made) for made in sorted(self.attempts, key=lambda made: made.kernel)),
        ]
        for title, listed in (("Not compiled:", self.exclusions), ("Not to be launched:", self.misfits)):
            if listed:
                lines += ["", title, "", *(f"- {line}" for line in listed)]
        return "\n".join(lines) + "\n"


def _row(made: Attempt) -> str:
    # a name begins with that of the kernel or of what the kernel does: it is not told twice
    configuration = made.name.removeprefix(made.kernel).strip() or "-"
    needs = made.resources
    figures = (needs.registers, needs.stack_bytes, needs.shared_bytes) if needs else (None, None, None)
    cells = [made.kernel, configuration, made.target, *("-" if figure is None else str(figure) for figure in figures)]
    return f"| {' | '.join([*cells, str(TARGETS[made.target].shared_bytes)])} |"


def compile_kernels(
    ops: Sequence[str] = (),
    targets: Sequence[str] = (),
    *,
    every: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> KernelTable:
    """Compile kernels for targets that need not be in this machine; Triton's own cache keeps what was compiled.

    Args:
        ops: names of folders of `litespark.ops`; none: all that have kernels.
        targets: names of `TARGETS`; none: all.
        every: all configurations, not only the most usual one of each kernel.
    """
    if interpreting():
        raise ValueError("TRITON_INTERPRET is set, so that kernels are interpreted and not compiled; unset it")
    if importlib.util.find_spec("triton") is None:
        raise ValueError("Triton is not installed, which compiles the kernels: pip install triton")
    known = ops_with_kernels()
    for what, names, choices in (("op", ops, known), ("target", targets, TARGETS)):
        if unknown := [name for name in names if name not in choices]:
            raise ValueError(f"--{what}: got {', '.join(unknown)}, expected some of: {', '.join(choices)}")
    words = [f" --op {op}" for op in ops] + [f" --target {target}" for target in targets] + [" --all"] * every
    modules = {op: known[op] for op in ops or known}
    chosen = [TARGETS[name] for name in dict.fromkeys(targets) or TARGETS]
    excluded = tuple(
        f"{op} is not for {target.name}: {reason}"
        for op, module in modules.items()
        for target in chosen
        if (reason := not_for(module, target)) is not None
    )
    for line in excluded:
        say(line)
    attempts = []
    for compilation, target in compilations(list(modules.values()), chosen, every=every):
        made = attempt(compilation, target)
        say(f"{made.target:7} {made.name}: {made.seconds:.1f} s{'' if made.misfit() is None else ', does not fit'}")
        attempts.append(made)
    return KernelTable(f"litespark kernels{''.join(words)}", tuple(attempts), excluded)
