"""How ranks agree: two real processes over gloo, whose collectives have a time-out that every wait here outlasts."""

import json
import subprocess
import sys

import pytest
import torch

from litespark.mesh import Mesh

TWO_RANKS = """
import json, logging, os, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from litespark.launch import Ranks
from litespark import mesh as module
from litespark.mesh import Mesh, Roles

folder = sys.argv[1]
child = os.fork()
rank = int(child == 0)
time_out = timedelta(seconds=2)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=time_out)
module.SAID_AFTER_SECONDS = 0.5
said = []
module.log.warning = lambda line, doing: said.append(line % doing)
mesh = Mesh(Ranks(2, rank, 0, 1))  # on two machines
halves = Mesh(Ranks(2, rank, 0, 1), Roles(tensor=2))


def on_device(agree):
    tensor = torch.tensor([rank, 5 - rank])
    agree(tensor)
    return tensor.tolist()




class Unpicklable(ValueError):
    def __init__(self, *, needed):
        super().__init__(f"needed {needed}")


def fails(error, working=(0,)):
    def make():
        raise error

    try:
        mesh.from_ranks(working, make, "the data")
    except BaseException as raised:
        return f"{type(raised).__name__}: {raised}"


results = {
    "sum": mesh.sum([rank, 2**62 - 1 - rank]),
    "sum on the device": on_device(mesh.sum_on_device),
    "max on the device": on_device(mesh.max_on_device),
    "is first": mesh.gather(mesh.is_first),
    "data of a copy each": mesh.gather((mesh.data_rank, mesh.roles.data)),
    "data of a cut matrix": mesh.gather((halves.data_rank, halves.roles.data)),
    "any": [mesh.any(value) for value in (False, rank == 1, True)],
    "all": [mesh.all(value) for value in (False, rank == 1, True)],
    "gather": mesh.gather({"rank": rank}),
    "first": mesh.from_first(lambda: (time.sleep(3), rank)[1], "the data to be prepared"),
    "said": said,
    "all ranks": mesh.from_all(lambda: rank, "both"),
    "error": fails(ValueError("no such file")),
    "error of the second": fails(OSError("read-only"), [1]),
    "unpicklable": fails(Unpicklable(needed=3)),
    "stopped": fails(KeyboardInterrupt()),
    "afterwards": mesh.from_first(lambda: "still together", "another"),
}
if rank == 0:
    try:
        mesh.from_ranks([1], lambda: None, "the data")
    except module.RankError as error:
        results["dead"] = str(error)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(results, file)
if rank == 1:
    os._exit(1)
os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks got."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, "-c", TWO_RANKS, str(folder)], timeout=300, check=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("sum", [1, 2**63 - 3]),
        ("sum on the device", [1, 9]),
        ("max on the device", [1, 5]),
        ("is first", [True, False]),
        ("data of a copy each", [[0, 2], [1, 2]]),
        ("data of a cut matrix", [[0, 1], [0, 1]]),
        ("any", [False, True, True]),
        ("all", [False, False, True]),
        ("gather", [{"rank": 0}, {"rank": 1}]),
        ("first", 0),
        ("all ranks", [0, 1]),
        ("error", "ValueError: no such file"),
        ("error of the second", "OSError: read-only"),
        ("afterwards", "still together"),
    ],
)
def test_all_ranks_get_the_same(ranks, asked, expected):
    assert [rank[asked] for rank in ranks] == [expected, expected]


@pytest.mark.parametrize(
    ("asked", "own"), [("unpicklable", "Unpicklable: needed 3"), ("stopped", "KeyboardInterrupt: ")]
)
def test_an_error_that_cannot_be_handed_on_is_named_to_the_others(ranks, asked, own):
    assert [rank[asked] for rank in ranks] == [own, f"RankError: rank 0 stopped: {own}"]


def test_whoever_waits_says_what_for_once_a_machine(ranks):
    said = ["waiting for the data to be prepared on rank 0, without a time-out"]
    assert [rank["said"] for rank in ranks] == [[], said]


def test_a_rank_that_dies_ends_the_wait(ranks):
    assert "lost the connection to the other ranks while waiting for the data" in ranks[0]["dead"]


def test_one_process_agrees_with_itself():
    mesh = Mesh()
    assert (mesh.sum([3]), mesh.any(False), mesh.gather("x")) == ([3], False, ["x"])
    assert mesh.from_first(lambda: 7, "a number") == 7
    assert mesh.from_all(lambda: 7, "a number") == [7]
    assert (mesh.is_first, mesh.roles, mesh.data_rank) == (True, (1, 1, 1), 0)
    alone = torch.tensor([3])
    mesh.sum_on_device(alone)
    mesh.max_on_device(alone)
    assert alone.tolist() == [3]
