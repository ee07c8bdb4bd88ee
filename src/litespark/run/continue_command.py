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
_HYDRA_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
_OF_SWEEPS = ("hydra.mode", "hydra.sweep", "hydra.launcher", "hydra/sweeper", "hydra/launcher")


@dataclass(frozen=True)
class Started:
    """How this process was started."""

    words: Sequence[str]  # its command line, with the interpreter and its flags
    arguments: Sequence[str]  # what follows the program (and the word `train` of `litespark train`)
    parent: Sequence[str]  # the command line of the process that started it; empty where that cannot be read
    environment: Mapping[str, str]

    @classmethod
    def here(cls) -> Started:
        try:
            parent = psutil.Process(os.getppid()).cmdline()
        except psutil.Error:  # it has ended, or belongs to another user
            parent = []
        return cls(sys.orig_argv, sys.argv[1:], parent, os.environ)

    def command(self, words: Sequence[str]) -> list[str]:
        """A command line of this process or of the one that started it, up to its arguments."""
        before = list(words[: len(words) - len(self.arguments)])
        if not before or Path(before[-1]).name not in ("train.py", "train"):  # a program of somebody else's
            return [_program("python"), "train.py"]
        name = Path(before[1]).name
        return [_program(name), *before[2:]] if name in ("torchrun", "litespark") else [_program("python"), *before[1:]]


def how_to_continue(overrides: Sequence[str], folder: Path, ranks: Ranks, started: Started | None = None) -> str:
    """The text for the user: the command, and where to give it if not here alone."""
    started = started or Started.here()
    machines = int(started.environment.get("GROUP_WORLD_SIZE", "1")) if ranks.launcher == "torchrun" else 1
    where = f" on each of the {machines} machines, with its own --node-rank" if machines > 1 else ""
    return f"To continue{where}:\n  {continue_command(overrides, folder, ranks, started)}"


def continue_command(overrides: Sequence[str], folder: Path, ranks: Ranks, started: Started | None = None) -> str:
    started = started or Started.here()
    environment = started.environment
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    kept = [str(override.input_line) for override in parsed if override.key_or_group not in _NOT_AGAIN]
    command = [*_launcher(ranks, environment), *started.command(started.words)]
    if ranks.world_size > 1 and ranks.launcher == "torchrun":
        # a process that torchrun did not start itself has its variables all the same
        by_torchrun = any(Path(word).name in ("torchrun", "torch.distributed.run") for word in started.parent[:4])
        options = [_program("torchrun"), f"--nproc-per-node={ranks.local_world_size}", "train.py"]
        command = started.command(started.parent) if by_torchrun else options
    # without these a class of the user's own would be found no more
    own = (ALLOWED_VARIABLE, "PYTHONPATH") if ALLOWED_VARIABLE in environment else ()
    set_here = [f"{name}={shlex.quote(value)}" for name in own if (value := environment.get(name))]
    words = map(shlex.quote, [*command, *_hydra_settings(started.arguments), *kept])
    return " ".join([*set_here, *words, override("resume", folder)])


def _program(name: str) -> str:
    """One that lies beside this interpreter: its name where the shell finds that very one, else its path."""
    beside = Path(sys.executable) if name == "python" else Path(sys.executable).with_name(name)
    path = shutil.which(name)
    return name if path and Path(path).parent == beside.parent else str(beside)


def _launcher(ranks: Ranks, environment: Mapping[str, str]) -> list[str]:
    """srun or mpirun, which keep their own options to themselves: what the tasks see of them."""
    if ranks.world_size == 1 or ranks.launcher not in ("srun", "mpirun"):
        return []
    if ranks.launcher == "mpirun":
        return ["mpirun", "-n", str(ranks.world_size)]
    seen = {
        "nodes": environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES"),
        "ntasks": str(ranks.world_size),
        "ntasks-per-node": environment.get("SLURM_NTASKS_PER_NODE"),
        "cpus-per-task": environment.get("SLURM_CPUS_PER_TASK"),
        "gpus-per-task": environment.get("SLURM_GPUS_PER_TASK"),
    }
    return ["srun", *(f"--{name}={value}" for name, value in seen.items() if value)]


def _hydra_settings(arguments: Sequence[str]) -> list[str]:
    """What was set of Hydra itself, such as another folder of configs, and is not in the overrides of the job."""
    kept: list[str] = []
    for place, word in enumerate(arguments):
        if word in _HYDRA_FLAGS:
            kept += arguments[place : place + 2]
        elif word.startswith(tuple(f"{flag}=" for flag in _HYDRA_FLAGS)) or (
            re.match(r"\+*hydra[./]", word) and not word.lstrip("+").startswith(_OF_SWEEPS)
        ):
            kept.append(word)
    return kept
