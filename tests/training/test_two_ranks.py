"""Two real processes over gloo: what goes wrong on one of them, both answer alike."""

import itertools

import pytest
import torch

from tests.training.small_runs import Planted, batches, small_run, training_module
from tests.training.two_ranks_worker import CASES, FP8, SAVED, SETTINGS, SIZES, STEPS, report
from tests.warm_processes import run_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of the two ranks reports."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(2, report, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_have_the_same_bits_after_every_step(ranks, case):
    left, right = (rank[case] for rank in ranks)
    assert len(left["weights"]) == len(right["weights"]) == STEPS
    assert all(same(a, b) for a, b in zip(left["weights"], right["weights"], strict=True))
    assert (left["skipped"], left["tokens"], left["validation"]) == (
        right["skipped"],
        right["tokens"],
        right["validation"],
    )


@pytest.mark.parametrize("case", [case for case in CASES if "nothing" not in case])
def test_a_step_that_is_bad_on_one_rank_is_skipped_by_both(ranks, case):
    for rank in ranks:
        weights = rank[case]["weights"]
        assert same(weights[1], weights[2])
        assert not same(weights[0], weights[1])
        assert not same(weights[2], weights[3])
        assert all(tensor.isfinite().all() for tensor in weights[-1])
        assert rank[case]["skipped"] == 1


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights and validation of one process that does the same steps, undisturbed and with the third one skipped."""
    results = {}
    for kind, what in itertools.product(SETTINGS, ("nothing", "loss")):
        module = training_module(
            steps=STEPS,
            sequences=8,
            task=Planted(lambda micro_batch: micro_batch == 9 and what != "nothing"),  # noqa: B023
            optimizer=SETTINGS[kind],
            fp8=FP8.get(kind),
            **SIZES.get(kind, {}),
        )
        run = small_run(tmp_path_factory.mktemp(what), module, accumulate=4, validate_every=STEPS)
        run.trainer.fit(module, batches(2))
        results[kind, what] = ([parameter.detach() for parameter in module.model.parameters()], module.validation)
    return results


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_where_one_process_does(ranks, alone, case):
    kind = CASES[case]["kind"]
    weights, validation = alone[kind, "nothing" if "nothing" in case else "loss"]
    # Muon's direction is rounded to bf16, which turns the last bit of a sum over ranks into one of bf16
    tolerance = 5e-5 if kind == "muon" else 1e-5
    for mine, expected in zip(ranks[0][case]["weights"][-1], weights, strict=True):
        assert (mine - expected).norm() / expected.norm() < tolerance
    assert ranks[0][case]["validation"] == pytest.approx(validation, rel=tolerance)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_muon_resumed_on_two_ranks_ends_in_the_same_bits(ranks, strategy):
    for rank in ranks:
        resumed, whole = (rank[f"{strategy} {what}"]["weights"] for what in (f"as {strategy}", "muon nothing"))
        assert len(resumed) == STEPS - SAVED
        assert all(same(a, b) for a, b in zip(resumed, whole[SAVED:], strict=True))


@pytest.mark.parametrize("was, now", [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_resume_changes_how_the_model_is_spread(ranks, was, now):
    for rank in ranks:
        resumed, whole = rank[f"{was} as {now}"], rank[f"{was} muon nothing"]
        assert (len(resumed["weights"]), resumed["tokens"]) == (STEPS - SAVED, whole["tokens"])
        assert resumed["momentum"] == rank[f"{now} muon nothing"]["momentum"]
        for mine, expected in zip(resumed["weights"][-1], whole["weights"][-1], strict=True):
            assert (mine - expected).norm() / expected.norm() < 1e-6


def test_the_momentum_of_muon_is_sharded_where_the_strategy_shards(ranks):
    for rank in ranks:
        assert rank["fsdp muon nothing"]["momentum"] == rank["fsdp as fsdp"]["momentum"] == (12, 9)
        assert rank["ddp muon nothing"]["momentum"] == (24, 9)


@pytest.mark.parametrize("case", [case for case in CASES if "fp8" in case])
def test_the_scales_of_fp8_are_the_same_on_both_ranks_and_never_spoilt(ranks, case):
    left, right = (rank[case] for rank in ranks)
    assert len(left["scales"]) == len(right["scales"]) == STEPS
    for mine, theirs in zip(left["scales"], right["scales"], strict=True):
        assert same(mine, theirs)
        assert all(values.isfinite().all() for values in mine)
    assert left["lost"] == right["lost"]
    assert len(left["lost"]) == left["scales"][0][0].numel()


@pytest.mark.parametrize(
    "what, message",
    [
        ("always bad", "not finite in 2 steps in a row, up to step 2 (optim.nonfinite_limit is 2)"),
        ("full disk", "no room for a checkpoint"),
        ("broken shard", "after step 2 weights or optimizer states are not finite (embedding.weight)"),
        ("broken shard", "saved ['step-00000001']"),
        ("refused", "checkpoint of step 2 could not be written"),
        ("refused", "saved ['step-00000001']"),
        ("refused in the background", "checkpoint of step 2 could not be written"),
        ("refused in the background", "saved ['step-00000001']"),
        ("signalled", "stopped after step 2 and saved; saved ['step-00000002']"),
    ],
)
def test_what_happens_to_one_rank_ends_the_run_on_both(ranks, what, message):
    for rank in ranks:
        assert message in rank[what]
