"""What the ranks of a real step send, counted by the mode that counts its traffic, is what the formulas have."""

from collections import Counter

import pytest
import torch

from litespark.planning.communication import data_exchanges, group_of, number_exchanges, tensor_exchanges, units_of
from litespark.planning.ranks import sharing_of
from litespark.training.parallel.config import StrategyConfig
from tests.benchmarks.collectives_worker import ACCUMULATE, CASES, MORE_CASES, SEQUENCES, SIZES, report
from tests.training.small_runs import LENGTH, small_llama
from tests.warm_processes import run_ranks


def counted(ranks, folder):
    """What each rank counted, by case."""
    run_ranks(ranks, report, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return counted(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def of_four(tmp_path_factory):
    return counted(4, tmp_path_factory.mktemp("four"))


def check(by_rank, case, *, precision="fp32", recompute="none", **settings):
    strategy = StrategyConfig(**settings)
    roles = strategy.roles(len(by_rank))
    sharing = sharing_of(strategy, narrow=precision == "bf16", micro_batches=ACCUMULATE)
    units = units_of(small_llama(**SIZES), roles.tensor)
    exchanges = data_exchanges(units, roles, sharing) + number_exchanges(units, roles)
    tokens, again = SEQUENCES * LENGTH, recompute == "full"
    exchanges += tensor_exchanges(units, roles, sharing, tokens=tokens, hidden_size=SIZES["hidden_size"], again=again)
    for rank, of_rank in enumerate(by_rank):
        payloads, calls = Counter(), Counter()
        for collective, payload, ranks in of_rank[case]:
            payloads[collective, tuple(ranks)] += payload
            calls[collective, tuple(ranks)] += 1
        expected, expected_calls = Counter(), Counter()
        for one in exchanges:
            key = one.collective, tuple(group_of(roles, one.over, rank))
            expected[key] += one.payload
            expected_calls[key] += one.calls or 1  # small models are one bucket of DDP
        assert payloads == expected
        if all(one.calls is not None for one in exchanges if one.what != "gradients"):
            assert calls == expected_calls


@pytest.mark.parametrize("case", CASES)
def test_a_real_step_of_two_ranks_sends_what_the_formulas_have(of_two, case):
    check(of_two, case, **CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES | MORE_CASES)
def test_a_real_step_of_four_ranks_sends_what_the_formulas_have(of_four, case):
    check(of_four, case, **(CASES | MORE_CASES)[case])
