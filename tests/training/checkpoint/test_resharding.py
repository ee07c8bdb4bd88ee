"""What one strategy saved on some ranks, any other reads on any number of them, bit by bit: processes over gloo."""

import itertools

import pytest
import torch

from tests.checkpoints import state_in
from tests.training.checkpoint.resharding_worker import CASES, SAVED, STEPS, report
from tests.warm_processes import run_ranks

NAMES = [name for cases in CASES.values() for name in cases]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    for sources in ([], NAMES):
        for ranks in CASES:
            run_ranks(ranks, report, folder, ranks, sources)
    return folder


def state(folder, step):
    read = state_in(folder / "checkpoints" / f"step-{step:08d}")
    (optimizer,) = read["optimizer_states"]
    states = {(name, key): value for name, values in optimizer["state"].items() for key, value in values.items()}
    return {**read["state_dict"], **states}, read["litespark"]["tokens_seen"]


@pytest.mark.slow
@pytest.mark.parametrize("was, now", list(itertools.product(NAMES, repeat=2)))
def test_every_strategy_reads_what_any_other_wrote(grid, was, now):
    (saved, tokens), (read, tokens_read) = state(grid / was, SAVED), state(grid / f"{was} to {now}", SAVED)
    assert saved.keys() == read.keys()
    assert len(saved) > 40
    assert tokens == tokens_read
    assert [name for name, value in saved.items() if not torch.equal(value, read[name])] == []
    (expected, tokens), (ended, tokens_ended) = state(grid / was, STEPS), state(grid / f"{was} to {now}", STEPS)
    assert tokens == tokens_ended
    for name in (name for name in expected if isinstance(name, str)):
        assert (ended[name] - expected[name]).norm() <= 1e-6 * expected[name].norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("ranks", CASES)
def test_each_rank_writes_its_own_part_and_no_value_twice(grid, ranks):
    for name in CASES[ranks]:
        saved, _ = state(grid / name, SAVED)
        files = sorted((grid / name / "checkpoints" / f"step-{SAVED:08d}").glob("*.safetensors"))
        sizes = [file.stat().st_size for file in files]
        values = sum(value.nbytes for value in saved.values())
        assert len(sizes) == ranks
        # and the states of the random generators, of all ranks
        assert values < sum(sizes) < 1.1 * values + 24_000 * ranks
