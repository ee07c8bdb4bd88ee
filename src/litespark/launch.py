"""Which processes make one run: what torchrun, srun or mpirun put into the environment, read here alone.

So Lightning and we cannot come to two answers. No torch is imported: the number of threads is decided before it is.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Launcher = Literal["", "torchrun", "srun", "mpirun"]

# of the pieces of a job that SLURM numbers from the top: the batch script, an interactive shell, and others
_NO_STEP = 0xFFFF0000
_PORTS = range(15000, 25000)  # below those that systems hand out by themselves
_MPI = (  # Open MPI; then MPICH and Intel MPI
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# what tells one start of mpirun from another on the same machine
_MPI_JOBS = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid", "PMI_FD", "HYDI_CONTROL_FD")


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those that make one run, and what started them together."""

    world_size: int
    rank: int
    local_rank: int
    local_world_size: int
    launcher: Launcher = ""

    def __post_init__(self) -> None:
        inside = 0 <= self.rank < self.world_size and 0 <= self.local_rank < self.local_world_size <= self.world_size
        if not inside:
            raise ValueError(
                f"{_VARIABLES[self.launcher]}: got rank {self.rank} of {self.world_size} processes and on this machine "
                f"{self.local_rank} of {self.local_world_size}, expected ranks below the number of processes; "
                f"{_START_AGAIN}"
            )

    @classmethod
    def from_environment(cls, strategy: str = "single", environment: Mapping[str, str] | None = None) -> Ranks:
        """The ranks of a run with this strategy; with `single` each task of srun and mpirun is a run of its own.

        A ValueError where variables contradict each other, or are no numbers.
        """
        environment = os.environ if environment is None else environment
        together = started_together(environment)
        if together.launcher in ("srun", "mpirun") and strategy == "single":
            return ALONE
        if together.launcher == "" and strategy != "single":
            _refuse_forgotten_srun(strategy, environment)
        return together


_START_AGAIN = (
    "start with torchrun --nproc-per-node=2 train.py strategy=ddp, or for one process first: unset WORLD_SIZE RANK "
    "LOCAL_RANK LOCAL_WORLD_SIZE"
)
_VARIABLES = {"": "ranks", "torchrun": "RANK and WORLD_SIZE", "srun": "SLURM_PROCID", "mpirun": "variables of MPI"}
ALONE = Ranks(world_size=1, rank=0, local_rank=0, local_world_size=1)


def started_together(environment: Mapping[str, str]) -> Ranks:
    """This process among those that one launcher started; errors as of `Ranks.from_environment`."""
    if "RANK" in environment and _number(environment, "RANK") is not None:
        return _of_torchrun(environment)
    for size, rank, local_rank, local_size in _MPI:
        # srun can set PMI's variables as well, and has better ones
        if environment.get(size) and not (size.startswith("PMI") and _step(environment) is not None):
            world, local = _needed(environment, size), _number(environment, local_rank) or 0
            return Ranks(world, _needed(environment, rank), local, _number(environment, local_size) or world, "mpirun")
    if _step(environment) is not None:
        return _of_srun(environment)
    if (world_size := _number(environment, "WORLD_SIZE")) not in (None, 1):
        raise ValueError(f"WORLD_SIZE: got {world_size} without RANK, expected both or neither; {_START_AGAIN}")
    return ALONE


def _of_torchrun(environment: Mapping[str, str]) -> Ranks:
    """Also of whatever else sets these variables; PyTorch asks for the first two only, on one machine they suffice."""
    rank, world = _needed(environment, "RANK"), _needed(environment, "WORLD_SIZE")
    local_rank, local_world = _number(environment, "LOCAL_RANK"), _number(environment, "LOCAL_WORLD_SIZE")
    return Ranks(world, rank, rank if local_rank is None else local_rank, local_world or world, "torchrun")


def _of_srun(environment: Mapping[str, str]) -> Ranks:
    world = _number(environment, "SLURM_STEP_NUM_TASKS") or _needed(environment, "SLURM_NTASKS")
    if world == 1:
        return ALONE
    rank, local_rank = _needed(environment, "SLURM_PROCID"), _needed(environment, "SLURM_LOCALID")
    return Ranks(world, rank, local_rank, _tasks_here(environment, world), "srun")


def _tasks_here(environment: Mapping[str, str], world: int) -> int:
    """Tasks of the step on this node, of a list such as `2(x3),1`."""
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or str(world)
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", per_node):
        counts += [int(count)] * int(times or 1)
    node = _number(environment, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else 1


def _step(environment: Mapping[str, str]) -> int | None:
    """The number of the job step that srun started this process in; None without one, as in a batch script."""
    step = _number(environment, "SLURM_STEP_ID")
    return None if step is None or step >= _NO_STEP else step


def _refuse_forgotten_srun(strategy: str, environment: Mapping[str, str]) -> None:
    """Refuse one process that is to be several, in a batch script that was given several tasks."""
    if not environment.get("SLURM_PROCID") or _step(environment) is not None:
        return  # no job of SLURM, or a shell or notebook in one, where one process may be meant
    tasks = _number(environment, "SLURM_NTASKS") or 1
    if tasks > 1:
        raise ValueError(
            f"SLURM_NTASKS: got {tasks} tasks and one process that srun did not start, expected one process a task; "
            f"start with srun before python, or torchrun --nproc-per-node={tasks} train.py strategy={strategy}"
        )


def meeting_point(ranks: Ranks, environment: Mapping[str, str]) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT, where rank 0 waits for the others: as given, or from the list of nodes; a ValueError
    where there is nothing to tell them from.
    """
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if not address and ranks.local_world_size == ranks.world_size:
        address = "127.0.0.1"
    if not address and ranks.launcher == "srun":
        nodes = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        address = _first_host(next((environment[name] for name in nodes if environment.get(name)), ""))
    if not port:
        jobs = ("SLURM_JOB_ID", "SLURM_STEP_ID") if ranks.launcher == "srun" else _MPI_JOBS
        job = [environment[name] for name in jobs if environment.get(name)]
        if job and ranks.launcher in ("srun", "mpirun"):
            port = str(_PORTS[zlib.crc32(".".join(job).encode()) % len(_PORTS)])
    if address and port:
        return {"MASTER_ADDR": address, "MASTER_PORT": port}
    missing = " and ".join(name for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port)) if not value)
    raise ValueError(
        f"got {ranks.world_size} processes without {missing}, expected the host of rank 0 and a free port there; start "
        f"with torchrun --nproc-per-node={ranks.local_world_size} train.py strategy=ddp, or set them for all processes"
    )


def _first_host(nodes: str) -> str:
    """The first host of a list of SLURM's, such as `gpu[07-09,12],login1`."""
    match = re.match(r"([^\[,\s]+)(?:\[([^\],-]+)[^\]]*\]([^,\s]*))?", nodes)
    return "" if match is None else "".join(part or "" for part in match.groups())


def _needed(environment: Mapping[str, str], name: str) -> int:
    value = _number(environment, name)
    if value is None:
        raise ValueError(f"{name}: got nothing, expected a whole number from the launcher; {_START_AGAIN}")
    return value


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A whole number from a variable; None where it is not set, or empty."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,18}", text):
        raise ValueError(f"{name}: got {text!r} in the environment, expected a whole number; {_START_AGAIN}")
    return int(text)
