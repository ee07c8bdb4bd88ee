"""How many threads a process computes with on a CPU, and how they wait; decided before torch is imported.

What the user set stays. `decide_threads` is called first in every entry: `train.py`, `litespark`, the tests.
"""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from litespark.launch import Ranks, started_together

# GNU's OpenMP, which PyTorch's packages bring, lets a thread spin 300,000 times before it sleeps: beside any other busy
# process the threads then wait for each other, and hold the cores while they do
SPIN_COUNT = 1000
_THREADS = "OMP_NUM_THREADS"
_OURS = "LITESPARK_OMP_NUM_THREADS"  # the number that we set, so that a child process does not take it for the user's


def decide_threads(environment: MutableMapping[str, str] | None = None, root: Path = Path("/")) -> None:
    """Set how long OpenMP's threads spin, and their number where the cores are shared with other ranks or limited.

    `root` is that of the file system, with /proc and /sys.
    """
    environment = os.environ if environment is None else environment
    if not environment.get("GOMP_SPINCOUNT") and not environment.get("OMP_WAIT_POLICY"):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    if _set_by_the_user(environment):
        return
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(allowed, quota(root) or allowed)
    try:
        ranks = started_together(environment)
    except ValueError:
        return  # it is told when the run is started
    sharing = _sharing(ranks, environment, allowed)
    if sharing > 1 or cores < allowed:
        environment[_THREADS] = environment[_OURS] = str(max(1, cores // sharing))


def _set_by_the_user(environment: MutableMapping[str, str]) -> bool:
    given = environment.get(_THREADS)
    if not given or given == environment.get(_OURS):
        return False
    if given == "1" and environment.get("TORCHELASTIC_RUN_ID"):
        import psutil  # not in every start of a command

        # torchrun sets 1 where nothing was set; its own environment shows which of the two it is
        try:
            return _THREADS in psutil.Process(os.getppid()).environ()
        except psutil.Error:
            return True
    return True


def _sharing(ranks: Ranks, environment: MutableMapping[str, str], allowed: int) -> int:
    """How many processes the cores that this one may run on are for."""
    if ranks.launcher == "srun":
        on_node = environment.get("SLURM_CPUS_ON_NODE", "")
        if on_node.isdecimal() and allowed < int(on_node):
            return 1  # each task is bound to cores of its own
    return ranks.local_world_size


def quota(root: Path = Path("/")) -> int | None:
    """The cores that the control groups (version 2) of this process may keep busy, rounded down; None: no limit."""
    mount, limits = root / "sys/fs/cgroup", []
    for path in re.findall(r"^0::/(.*)$", _read(root / "proc/self/cgroup"), re.MULTILINE):
        group = mount / path
        while group.is_relative_to(mount):  # the limit may stand on a group above
            if match := re.fullmatch(r"(\d+) (\d+)\s*", _read(group / "cpu.max")):  # else there is none
                limits.append(max(1, int(match[1]) // int(match[2])))
            group = group.parent
    return min(limits, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
