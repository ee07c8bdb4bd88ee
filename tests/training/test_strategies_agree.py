"""Every strategy trains as one process does, to the rounding of sums in another order: real processes over gloo."""

from functools import cache

import pytest
import torch

from tests.training.strategy_grid import report, trained
from tests.warm_processes import run_ranks

TWO = {
    "fsdp whole": {"name": "fsdp", "accumulate": "whole", "reshard_after_forward": False},
    "hsdp of copies": {"name": "hsdp", "shard": 1},
    "tp": {"name": "tp"},
}
FOUR = {
    "ddp": {"name": "ddp"},
    "fsdp": {"name": "fsdp", "prefetch": 2},
    "hsdp": {"name": "hsdp", "shard": 2},
    "tp": {"name": "tp"},
    "fsdp_tp": {"name": "fsdp_tp", "tensor": 2},
    "fsdp_tp of copies": {"name": "fsdp_tp", "tensor": 2, "shard": 1, "accumulate": "whole"},
    "fsdp_tp muon": {"name": "fsdp_tp", "tensor": 2},
    "hsdp muon": {"name": "hsdp", "shard": 2},
    "hsdp whole": {"name": "hsdp", "shard": 2, "accumulate": "whole"},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return cache(
        lambda optimizer, steps: trained(folder / f"{optimizer} {steps}", {"name": "single"}, optimizer, steps)
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return ranks_of(tmp_path_factory.mktemp("two"), 2, TWO, 6)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return ranks_of(tmp_path_factory.mktemp("four"), 4, FOUR, 20)


def ranks_of(folder, count, cases, steps):
    run_ranks(count, report, folder, cases, steps, timeout=900)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(count)]


def check_equal(case, found, alone):
    # each direction of Muon is rounded to bf16, which turns the last bit of a sum over ranks into one of bf16
    optimizer, tolerance = ("muon", 3e-3) if case.endswith("muon") else ("adamw", 1e-5)
    expected = alone(optimizer, len(found["steps"]))
    for mine, theirs in zip(found["steps"], expected["steps"], strict=True):
        assert mine[:2] == pytest.approx(theirs[:2], rel=tolerance)
        assert mine[2] == theirs[2]
    assert found["validation"] == pytest.approx(expected["validation"], rel=tolerance)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        assert (found["weights"][name] - weight).norm() / weight.norm() < tolerance, name


@pytest.mark.parametrize("case", TWO)
def test_two_ranks_train_as_one_process_does(two, alone, case):
    for rank in two:
        check_equal(case, rank[case], alone)


@pytest.mark.slow
@pytest.mark.parametrize("case", FOUR)
def test_four_ranks_train_as_one_process_does(four, alone, case):
    for rank in four:
        check_equal(case, rank[case], alone)
