"""Compiles kernels in a process of its own, since those of the tests are interpreted.

`python -m tests.ops.compile_worker FILE [first|every TARGET,… MODULE,…]…` writes one line of JSON to FILE for each
compilation before it begins, and one with its result; a compiler that ends the process leaves the name behind.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from litespark.ops.compilation import Attempt, Resources, attempt, compilations
from litespark.ops.instructions import Accesses, Code
from litespark.ops.triton_support import TARGETS

REPOSITORY = Path(__file__).resolve().parents[2]


def compile_in_worker(folder: Path, modules: list[str], targets: list[str], *, every: bool) -> list[Attempt]:
    """Compile what modules of kernels state, in a fresh process with a fresh cache in `folder`."""
    return compile_all(folder, [(modules, targets, every)])


def compile_all(folder: Path, jobs: list[tuple[list[str], list[str], bool]]) -> list[Attempt]:
    """The same for several (modules, targets, every) one after the other."""
    results = folder / "attempts.jsonl"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "TRITON_CACHE_DIR": str(folder / "triton-cache"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    words = [str(results)]
    for modules, targets, every in jobs:
        words += ["every" if every else "first", ",".join(targets), ",".join(modules)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.ops.compile_worker", *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    if ended.returncode:
        begun = next((line["begun"] for line in reversed(lines) if "begun" in line), "nothing yet")
        raise AssertionError(f"the worker ended with {ended.returncode} at: {begun}\n{ended.stderr[-4000:]}")
    made = (line for line in lines if "begun" not in line)
    return [_attempt(line) for line in made]


def _attempt(line: dict[str, Any]) -> Attempt:
    resources = line["resources"] and Resources(**line["resources"])
    accesses = {name: Accesses(**line["code"][name]) for name in ("loads", "stores")} if line["code"] else {}
    return Attempt(**line | {"resources": resources, "code": line["code"] and Code(**line["code"] | accesses)})


def main(file: str, *jobs: str) -> None:
    with Path(file).open("w") as results:
        for how_many, targets, modules in zip(jobs[::3], jobs[1::3], jobs[2::3], strict=True):
            chosen = [TARGETS[name] for name in targets.split(",")]
            for compilation, target in compilations(modules.split(","), chosen, every=how_many == "every"):
                print(json.dumps({"begun": f"{compilation.name} for {target.name}"}), file=results, flush=True)
                print(json.dumps(dataclasses.asdict(attempt(compilation, target))), file=results, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
