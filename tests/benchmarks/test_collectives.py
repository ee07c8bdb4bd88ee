"""What the ranks of a real step send, counted by the mode that counts its traffic, is what the formulas have."""

from collections import Counter

import pytest
import torch

from litespark.mesh import Roles
from litespark.planning.communication import Sharing, data_exchanges, group_of, number_exchanges, units_of
from litespark.training.parallel.config import StrategyConfig
from tests.benchmarks.collectives_worker import ACCUMULATE, CASES, SIZES, report
from tests.training.small_runs import small_llama
from tests.warm_processes import run_ranks


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def counted(request, tmp_path_factory):
    """What each rank counted, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(request.param, report, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("case", CASES)
def test_a_real_step_sends_what_the_formulas_have(counted, case):
    settings = CASES[case]
    roles = StrategyConfig(settings["name"]).roles(len(counted))
    sharing = Sharing(
        ACCUMULATE,
        gathered_bytes=2 if settings.get("precision") == "bf16" else 4,
        reshard_after_forward=settings.get("reshard_after_forward", True),
    )
    units = units_of(small_llama(**SIZES))
    exchanges = data_exchanges(units, roles, sharing) + number_exchanges(units, roles)
    for rank, of_rank in enumerate(counted):
        payloads, calls = Counter(), Counter()
        for collective, payload, ranks in of_rank[case]:
            payloads[collective, tuple(ranks)] += payload
            calls[collective, tuple(ranks)] += 1
        expected, expected_calls = Counter(), Counter()
        for one in exchanges:
            key = one.collective, group_of(roles, one.over, rank)
            expected[key] += one.payload
            expected_calls[key] += one.calls or 1  # small models are one bucket of DDP
        assert payloads == expected
        assert calls == expected_calls
