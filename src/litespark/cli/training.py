"""`litespark train`, and the command that trains in order to check something: `verify-resume`."""

import runpy
import sys
from collections.abc import Sequence
from typing import Annotated

from litespark.cli.configs import Overrides, composed_parts, number, repository, tell
from litespark.ranges import Count, Processes


def train(overrides: Overrides) -> int:
    """Train a model; the same as python train.py.

    With Hydra's own flags: -m sweeps over lists, --cfg job prints the config.
    """
    return run_script(overrides)


def verify_resume(
    overrides: Overrides,
    *,
    steps: Annotated[int, number(Count, "Steps before the kill")] = 6,
    more: Annotated[int, number(Count, "Steps after it")] = 6,
    nproc: Annotated[int, number(Processes, "Processes; more than one start with torchrun")] = 1,
) -> int:
    """Check that a killed run continues bit for bit."""
    from litespark.run import verify_resume as verification

    composed_parts(overrides)  # a mistake shows before a process is started
    script = repository() / "train.py"
    verdict = verification.verify_resume(script, overrides, steps=steps, more=more, processes=nproc, say=tell)
    print(verdict)
    return 0 if verdict.difference is None else 1


def run_script(overrides: Sequence[str]) -> int:
    """Run train.py as a script would, with Hydra's own flags (-m sweeps, --cfg job prints)."""
    script = str(repository() / "train.py")
    before, sys.argv = sys.argv, [script, *overrides]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
