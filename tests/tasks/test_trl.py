"""Every loss and its gradients equal TRL's on the same ids and weights: see `trl_oracle`."""

import dataclasses
import json

import pytest
import torch

from litespark.data.examples.batch import pack
from litespark.tasks.preferences.kto import KTO
from litespark.tasks.preferences.losses import LOSSES, Strength, orpo
from litespark.tasks.preferences.task import Preference
from litespark.tasks.reward import Reward
from litespark.tasks.sequences import log_probabilities
from litespark.tasks.sft import SFT
from tests.tasks import oracle_cases as cases

TASKS = (
    {"sft": SFT(), "simpo": Preference(loss_type="simpo", **cases.SIMPO)}
    | {name: Preference(loss_type=name, **settings) for name, settings in cases.DPO.items()}
    | {"reward": Reward(), "reward_margin": Reward(**cases.CENTRED)}
    | {name: KTO(loss_type=name, **settings) for name, settings in cases.KTO.items()}
)


@pytest.fixture(scope="module")
def golden():
    return json.loads(cases.GOLDEN.read_text())


def batch_for(task, name=""):
    """The cases laid out in two rows of one micro-batch, with what the reference makes of them."""
    examples = cases.rated_examples() if isinstance(task, KTO) else cases.pair_examples()
    if isinstance(task, SFT):
        examples = [cases.example((prompt, completion)) for prompt, completion, _ in cases.rated()]
    numbered = list(enumerate(examples))
    columns = ["desirable"] if isinstance(task, KTO) else ["margin"] if name == "reward_margin" else []
    scores = isinstance(task, Reward)
    batch = pack([numbered[:1], numbered[1:]], 64, fill_id=0, columns=columns, last_ids=scores)
    if scores:
        return batch
    with torch.no_grad():
        return dataclasses.replace(batch, reference=log_probabilities(cases.reference(), batch))


def kept(model):
    named = dict(model.named_parameters())
    return {
        "embedding": named["embedding.weight"].grad.sum(1),
        "first_norm": named["blocks.0.attention_norm.weight"].grad,
        "norm": named["norm.weight"].grad,
    }


def assert_equal(got, expected):
    expected = torch.tensor(expected)
    assert (got - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", TASKS)
def test_loss_and_gradients_are_those_of_trl(golden, name):
    task = TASKS[name]
    model = cases.scorer() if isinstance(task, Reward) else cases.policy()
    batch = batch_for(task, name)
    loss = task.loss(model, batch) / task.divisor(batch)
    loss.backward()
    assert loss.item() == pytest.approx(golden[name]["loss"], rel=1e-5)
    for part, values in kept(model).items():
        assert_equal(values, golden[name][part])


def test_the_odds_of_orpo_are_those_of_trl_and_its_nats_are_of_the_chosen_completion(golden):
    task, model = Preference(loss_type="orpo", beta=0.25), cases.policy()
    batch = batch_for(task)
    pairs = task._pairs(model, batch)
    nats = -pairs.chosen / pairs.chosen_length
    odds = (orpo(pairs, Strength(beta=0.25)) - nats).mean()
    odds.backward()
    assert odds.item() == pytest.approx(golden["orpo_odds"]["loss"], rel=1e-5)
    for part, values in kept(model).items():
        assert_equal(values, golden["orpo_odds"][part])
    with torch.no_grad():
        alone = [model(*_shifted(prompt, chosen)).item() / len(chosen) for prompt, chosen, _ in cases.pairs()]
    assert nats.tolist() == pytest.approx(alone, rel=1e-5)


def _shifted(prompt, completion):
    ids = torch.tensor([[*prompt, *completion]])
    labels = ids[:, 1:].clone()
    labels[:, : len(prompt) - 1] = -100
    return ids[:, :-1], labels


def test_every_loss_is_compared():
    assert {*LOSSES} == {*cases.DPO, "simpo", "orpo"}


def test_label_smoothing_mixes_both_directions_and_flips_at_one():
    """Conservative DPO, which TRL's `sigmoid` has no more: at ε the loss is (1-ε)·loss + ε·loss of the pair turned."""
    model = cases.policy()
    with torch.no_grad():
        task = Preference(label_smoothing=0.3)
        pairs = task._pairs(model, batch_for(task))
    turned = dataclasses.replace(
        pairs, chosen=pairs.rejected, rejected=pairs.chosen,
        reference_chosen=pairs.reference_rejected, reference_rejected=pairs.reference_chosen,
    )  # fmt: skip
    plain, smooth = Strength(), Strength(label_smoothing=0.3)
    mixed = 0.7 * LOSSES["sigmoid"](pairs, plain) + 0.3 * LOSSES["sigmoid"](turned, plain)
    torch.testing.assert_close(LOSSES["sigmoid"](pairs, smooth), mixed)


@pytest.mark.slow
def test_golden_values_are_what_trl_computes(golden):
    from tests.tasks.trl_oracle import golden as computed

    values = computed()
    assert values.keys() == golden.keys()
    for name, case in values.items():
        for part, got in case.items():
            assert_equal(torch.tensor(got), golden[name][part])


def test_the_case_of_kto_has_an_estimate_that_counts():
    task = KTO()
    with torch.no_grad():
        _, seen = task.observe(cases.policy(), batch_for(task))
    assert seen[-1][0] / seen[-1][1] > 0.1
