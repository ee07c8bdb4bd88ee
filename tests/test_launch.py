"""Which processes make one run, from the variables of each launcher."""

from __future__ import annotations

import re

import pytest

from litespark.launch import ALONE, Ranks, meeting_point

TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "5", "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
}  # fmt: skip
# of a script of sbatch: tasks, and one process that srun did not start
BATCH = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-host-77@1",
}
INTEL = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        ({"WORLD_SIZE": "", "RANK": ""}, ALONE),
        (TORCHRUN, Ranks(4, 3, 1, 2, "torchrun")),
        (TORCHRUN | BATCH, Ranks(4, 3, 1, 2, "torchrun")),  # torchrun in a script of sbatch
        (TORCHRUN | SRUN, Ranks(4, 3, 1, 2, "torchrun")),  # srun starts a torchrun a node
        ({"WORLD_SIZE": "2", "RANK": "1"}, Ranks(2, 1, 1, 2, "torchrun")),  # all that PyTorch asks for
        (SRUN, Ranks(5, 3, 1, 2, "srun")),
        (SRUN | {"SLURM_PROCID": "4", "SLURM_NODEID": "2", "SLURM_LOCALID": "0"}, Ranks(5, 4, 0, 1, "srun")),
        (SRUN | {"WORLD_SIZE": "5"}, Ranks(5, 3, 1, 2, "srun")),  # as scripts export it by themselves
        (SRUN | INTEL, Ranks(5, 3, 1, 2, "srun")),  # srun --mpi=pmi2
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ALONE),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, ALONE),  # a shell of salloc
        (BATCH | {"SLURM_STEP_ID": str(0xFFFFFFFA), "SLURM_NTASKS": "1"}, ALONE),  # an interactive step
        (MPIRUN, Ranks(2, 1, 1, 2, "mpirun")),
        (MPIRUN | BATCH, Ranks(2, 1, 1, 2, "mpirun")),
        (INTEL, Ranks(2, 1, 1, 2, "mpirun")),
    ],
)
def test_processes_that_make_one_run(environment, expected):
    assert Ranks.from_environment("ddp", environment) == expected


@pytest.mark.parametrize("environment", [SRUN, BATCH, MPIRUN, INTEL, {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}])
def test_with_one_device_a_run_tasks_are_runs_of_their_own(environment):
    assert Ranks.from_environment("single", environment) == ALONE


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "abc", "RANK": "0"}, "WORLD_SIZE: got 'abc' in the environment, expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK: got '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "got rank 2 of 2 processes"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "on this machine 2 of 2"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE: got 2 without RANK"),
        ({"RANK": "1"}, "WORLD_SIZE: got nothing"),
        (SRUN | {"SLURM_PROCID": "5"}, "SLURM_PROCID: got rank 5 of 5 processes"),
        (SRUN | {"SLURM_LOCALID": ""}, "SLURM_LOCALID: got nothing"),
    ],
)
def test_variables_that_cannot_be_are_refused_with_a_command(environment, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Ranks.from_environment("ddp", environment)
    assert "torchrun --nproc-per-node=2 train.py strategy=ddp" in str(caught.value)
    # a script of several tasks that were not started by srun
    with pytest.raises(ValueError, match=r"SLURM_NTASKS: got 2 tasks .* torchrun --nproc-per-node=2 .*strategy=fsdp"):
        Ranks.from_environment("fsdp", BATCH)


def met(environment):
    place = meeting_point(Ranks.from_environment("ddp", environment), environment)
    return place["MASTER_ADDR"], int(place["MASTER_PORT"])


def test_ranks_meet_where_they_are_told_or_on_the_first_node():
    there = {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}
    for environment in (TORCHRUN, SRUN, MPIRUN):
        assert met(environment | there) == ("a", 29500)
    address, port = met(SRUN)
    assert (address, 15000 <= port < 25000) == ("gpu07", True)
    assert met(SRUN | {"SLURM_STEP_NODELIST": "login1,gpu[1-2]"})[0] == "login1"
    assert met(SRUN | {"SLURM_STEP_NODELIST": "r[1-2]n-ib,x"})[0] == "r1n-ib"
    assert met(SRUN | {"SLURM_STEP_ID": "1"})[1] != port
    assert met(MPIRUN)[0] == "127.0.0.1"
    for environment, missing in ((TORCHRUN, "MASTER_ADDR and MASTER_PORT"), ({"WORLD_SIZE": "2", "RANK": "1"}, "PORT")):
        with pytest.raises(ValueError, match=f"without .*{missing}, expected the host of rank 0"):
            met(environment)
