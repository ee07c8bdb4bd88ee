"""`litespark kernels`: compiles the kernels for every target, without a GPU."""

import importlib.util
from collections.abc import Callable, Sequence

from litespark.ops.compilation import Compiled, attempt, compilations, not_for, ops_with_kernels
from litespark.ops.triton_support import TARGETS, interpreting


def compile_kernels(
    ops: Sequence[str] = (),
    targets: Sequence[str] = (),
    *,
    every: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Compiled:
    """Compile kernels for targets that need not be in this machine; Triton's own cache keeps what was compiled.

    None of `ops` or of `targets` is all; `every` takes all configurations, not only the usual one of each kernel.
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
    return Compiled(f"litespark kernels{''.join(words)}", tuple(attempts), excluded)
