"""The command that continues a run: started as this one was, by the same launcher with the same options."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.launch import Ranks
from litespark.override_text import override
from litespark.run.targets import ALLOWED_VARIABLE

# the folder says which run, and a sweep's file holds nothing but what is swept
_NOT_AGAIN = ("resume", "name", "sweep")
_FLAGS_WITH_VALUE = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_OF_SWEEPS = ("hydra.mode", "hydra.sweep", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
_PYTHON_FLAGS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_PROGRAMS = ("train.py", "litespark")


@dataclass(frozen=True)
class Started:
    """How this process was started.

    Attributes:
        words: its command line, with the interpreter and its flags.
        script: what Python took for the program, `sys.argv[0]`.
        arguments: what follows the program (and the word `train` of `litespark train`).
        parent: the command line of the process that started it; empty where that cannot be read.
        environment: its variables.
    """

    words: Sequence[str]
    script: str
    arguments: Sequence[str]
    parent: Sequence[str]
    environment: Mapping[str, str]

    @classmethod
    def here(cls) -> Started:
        try:
            parent = psutil.Process(os.getppid()).cmdline()
        except psutil.Error:  # it has ended, or belongs to another user
            parent = []
        return cls(sys.orig_argv, sys.argv[0], sys.argv[1:], parent, os.environ)

    @property
    def program(self) -> tuple[list[str], list[str]]:
        """Flags of the interpreter, and what it runs: `train.py`, `-m litespark.cli train`, `…/litespark train`."""
        before = list(self.words[1 : len(self.words) - len(self.arguments)])
        place = 0
        while place < len(before) and before[place].startswith("-") and before[place] != "-m":
            place += 2 if before[place] in _PYTHON_FLAGS_WITH_VALUE else 1
        flags, program = before[:place], before[place:]
        of_ours = program[:1] == ["-m"] and program[1:2] and program[1].split(".")[0] == "litespark"
        if list(self.words[len(self.words) - len(self.arguments) :]) == list(self.arguments) and (
            of_ours or (program and Path(program[0]).name in _PROGRAMS)
        ):
            return flags, program
        # called by another program: the script that does the same
        return [], [self.script if Path(self.script).name == "train.py" else "train.py"]


def how_to_continue(overrides: Sequence[str], folder: Path, ranks: Ranks, started: Started | None = None) -> str:
    """What to tell the user: the command, and where to give it if not here alone.

    Args:
        overrides: of this run, as Hydra took them.
        folder: of the run.
        ranks: the processes of the run.
        started: None: as this process was.
    """
    started = started or Started.here()
    command = continue_command(overrides, folder, ranks, started)
    machines = int(started.environment.get("GROUP_WORLD_SIZE", "1")) if ranks.launcher == "torchrun" else 1
    where = ""
    if machines > 1:
        found = re.search(r"--node[-_]rank[= ]\S+", command)
        own = None if found is None else found[0]
        where = f" on each of the {machines} machines" + (f", with its own --node-rank instead of {own}" if own else "")
    return f"To continue{where}:\n  {command}"


def continue_command(overrides: Sequence[str], folder: Path, ranks: Ranks, started: Started | None = None) -> str:
    """The command line that resumes the run in `folder`."""
    started = started or Started.here()
    flags, program = started.program
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    kept = [str(each.input_line) for each in parsed if each.key_or_group not in _NOT_AGAIN]
    quoted = [*map(shlex.quote, [*_hydra_flags(started.arguments), *kept]), override("resume", folder)]
    if ranks.world_size > 1 and ranks.launcher == "torchrun":
        words = [*_torchrun(started, program), *(program[1:] if program[0] == "-m" else program)]
    elif Path(program[0]).name == "litespark" and not flags and _on_path("litespark"):
        words = [*_launcher(ranks, started.environment), "litespark", *program[1:]]
    else:
        python = "python" if _on_path("python") else sys.executable
        words = [*_launcher(ranks, started.environment), python, *flags, *program]
    # without these a class of the user's own would be found no more
    own = (ALLOWED_VARIABLE, "PYTHONPATH") if ALLOWED_VARIABLE in started.environment else ()
    set_here = [f"{name}={shlex.quote(value)}" for name in own if (value := started.environment.get(name))]
    return " ".join([*set_here, *map(shlex.quote, words), *quoted])


def _torchrun(started: Started, program: Sequence[str]) -> list[str]:
    """torchrun with the options that it was given; where they cannot be read, with those that its variables tell."""
    module = program[0] == "-m"
    job = [*(program[1:] if module else program), *started.arguments]
    parent = list(started.parent)
    short = ["torchrun"] if _on_path("torchrun") else [sys.executable, "-m", "torch.distributed.run"]
    if parent[len(parent) - len(job) :] == job:
        given = parent[: len(parent) - len(job)]
        for place, word in enumerate(given[:4]):
            if Path(word).name == "torchrun" or word == "torch.distributed.run":
                return [*short, *given[place + 1 :]]
    environment = started.environment
    options = [f"--nproc-per-node={environment.get('LOCAL_WORLD_SIZE', '1')}"]
    if int(environment.get("GROUP_WORLD_SIZE", "1")) > 1:
        options = [
            f"--nnodes={environment['GROUP_WORLD_SIZE']}",
            f"--node-rank={environment.get('GROUP_RANK', '0')}",
            f"--master-addr={environment.get('MASTER_ADDR', '127.0.0.1')}",
            f"--master-port={environment.get('MASTER_PORT', '29500')}",
            *options,
        ]
    return [*short, *options, *(["-m"] if module else [])]


def _launcher(ranks: Ranks, environment: Mapping[str, str]) -> list[str]:
    """srun or mpirun, which keep their own options to themselves: what the tasks see of them."""
    if ranks.world_size == 1 or ranks.launcher not in ("srun", "mpirun"):
        return []
    if ranks.launcher == "mpirun":
        return ["mpirun", "-n", str(ranks.world_size)]
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    seen = {
        "nodes": nodes,
        "ntasks": str(ranks.world_size),
        "ntasks-per-node": environment.get("SLURM_NTASKS_PER_NODE"),
        "cpus-per-task": environment.get("SLURM_CPUS_PER_TASK"),
        "gpus-per-task": environment.get("SLURM_GPUS_PER_TASK"),
    }
    return ["srun", *(f"--{name}={value}" for name, value in seen.items() if value)]


def _hydra_flags(arguments: Sequence[str]) -> list[str]:
    """What was set of Hydra itself, such as another folder of configs, and is not in the overrides of the job."""
    kept: list[str] = []
    for place, word in enumerate(arguments):
        key = word.lstrip("+")
        if word in _FLAGS_WITH_VALUE:
            kept += arguments[place : place + 2]
        elif word.split("=")[0] in _FLAGS_WITH_VALUE or (
            key.startswith(("hydra.", "hydra/")) and not key.startswith(_OF_SWEEPS)
        ):
            kept.append(word)
    return kept


def _on_path(program: str) -> bool:
    """Whether the shell would find `program` beside this interpreter."""
    found = shutil.which(program)
    return found is not None and Path(found).parent == Path(sys.executable).parent
