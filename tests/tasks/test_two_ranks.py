"""Every task on two real processes over gloo ends where one process does, and counts each example once."""

import pytest
import torch

from tests.tasks.small_tasks import KINDS, report, task_run
from tests.warm_processes import run_ranks

STRATEGIES = ("ddp", "fsdp")
CELLS = [(kind, strategy) for kind in KINDS for strategy in STRATEGIES]


def on_two_ranks(folder, cells):
    """What each of two ranks ends with, cell by cell, in one pair of processes: starting them is what takes time."""
    run_ranks(2, report, folder, cells)
    by_rank = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    return list(zip(*by_rank, strict=True))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    cells = [{"kind": kind, "strategy": strategy} for kind, strategy in CELLS]
    return dict(zip(CELLS, on_two_ranks(tmp_path_factory.mktemp("ranks"), cells), strict=True))


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_two_ranks_end_where_one_process_does(ranks, cell, tmp_path):
    kind, strategy = cell
    # one micro-batch in place of the two of each of two ranks, but for KTO, whose KL is that of a micro-batch
    alone = task_run(tmp_path, kind, micro_batch_size=1 if kind == "kto" else 4)
    same_as_alone(ranks[cell], alone)
    of_policy, of_reference = zip(*(found["bytes"] for found in ranks[cell]), strict=True)
    assert of_reference == (of_policy if kind == "grpo" else (0, 0))
    if strategy == "fsdp":  # each rank holds its part of the policy and of the reference, and no more
        assert sum(of_policy) == alone["bytes"][0]
        assert max(of_policy) < 0.6 * alone["bytes"][0]
    else:
        assert of_policy == (alone["bytes"][0],) * 2


@pytest.mark.slow
def test_adapters_on_two_ranks_end_where_those_of_one_process_do(tmp_path):
    cells = [{"kind": kind, "strategy": strategy, "lora": True} for kind in KINDS[:2] for strategy in STRATEGIES]
    for cell, both in zip(cells, on_two_ranks(tmp_path, cells), strict=True):
        same_as_alone(
            both,
            task_run(
                tmp_path / "alone" / "-".join(map(str, cell.values())), cell["kind"], micro_batch_size=4, lora=True
            ),
        )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("kto", "dpo")])
def test_micro_batches_change_nothing(kind, tmp_path):
    same_as_alone(
        [task_run(tmp_path / "cut", kind, micro_batch_size=1)], task_run(tmp_path / "whole", kind, micro_batch_size=4)
    )


def same_as_alone(both, alone):
    for found in both:
        assert found["seen"] == alone["seen"]
        assert found["weights"].keys() == alone["weights"].keys()
        for name, whole in alone["weights"].items():
            assert (found["weights"][name] - whole).norm() <= 1e-5 * whole.norm() + 1e-7, name
    for row, mine in zip(alone["rows"], both[0]["rows"], strict=True):
        logged = {name for name in row if name.startswith(("train/", "validation/"))}
        assert {"train/loss", "train/gradient_norm"} <= logged
        for name in logged:
            assert mine[name] == pytest.approx(row[name], rel=1e-4, abs=1e-5), name
