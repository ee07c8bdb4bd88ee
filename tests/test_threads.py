"""OpenMP's threads: how long they spin, and how many there are beside other ranks or in a container."""

from __future__ import annotations

import os

import psutil
import pytest

from litespark.threads import SPIN_COUNT, decide_threads, quota

TWO_RANKS = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}


@pytest.fixture
def cores(monkeypatch):
    def on(count):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)), raising=False)

    on(8)
    return on


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def decided(environment, root):
    environment = dict(environment)
    decide_threads(environment, root)
    return environment


def test_a_process_alone_takes_all_cores_and_spins_for_a_short_time_or_as_the_user_says(cores, tmp_path):
    assert decided({}, tmp_path) == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    for given in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        assert decided(given, tmp_path) == given


def test_ranks_of_one_machine_share_its_cores(cores, tmp_path):
    assert decided(TWO_RANKS, tmp_path)["OMP_NUM_THREADS"] == "4"
    cores(1)
    assert decided(TWO_RANKS, tmp_path)["OMP_NUM_THREADS"] == "1"


def test_torchruns_own_single_thread_is_replaced_and_a_users_is_not(cores, tmp_path, monkeypatch):
    started_with = {"PATH": "/bin"}
    monkeypatch.setattr(psutil.Process, "environ", lambda process: started_with if process.pid == os.getppid() else 1)
    one = TWO_RANKS | {"OMP_NUM_THREADS": "1"}
    assert decided(one, tmp_path)["OMP_NUM_THREADS"] == "4"
    started_with["OMP_NUM_THREADS"] = "1"
    assert decided(one, tmp_path)["OMP_NUM_THREADS"] == "1"
    assert decided(TWO_RANKS | {"OMP_NUM_THREADS": "3"}, tmp_path)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(os, "getppid", lambda: 0)  # outside of the container: nobody tells
    assert decided(one, tmp_path)["OMP_NUM_THREADS"] == "1"


def test_a_child_does_not_take_our_number_for_the_users(cores, tmp_path):
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "600000 100000\n"})
    alone = decided({}, tmp_path)
    assert alone["OMP_NUM_THREADS"] == "6"
    assert decided(alone | TWO_RANKS, tmp_path)["OMP_NUM_THREADS"] == "3"


def test_tasks_that_slurm_bound_to_cores_take_their_own(cores, tmp_path):
    tasks = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "4",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1",
    }
    assert decided(tasks | {"SLURM_CPUS_ON_NODE": "8"}, tmp_path)["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in decided(tasks | {"SLURM_CPUS_ON_NODE": "32"}, tmp_path)


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("/", {}, None),
        ("/", {"cpu.max": "max 100000\n"}, None),
        ("/", {"cpu.max": "250000 100000\n"}, 2),
        ("/", {"cpu.max": "50000 100000\n"}, 1),
        # the limit stands on a group above
        ("/a/b", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, 4),
    ],
)
def test_the_cores_that_a_container_may_keep_busy(tmp_path, group, files, cores):
    assert quota(tmp_path) is None
    limits = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    write(tmp_path, {"proc/self/cgroup": f"3:memory:/x\n0::{group}\n", **limits})
    assert quota(tmp_path) == cores
