"""The objectives beside TRL's, and the advantages beside their formulas."""

import json

import pytest
import torch

from litespark.tasks.grpo.losses import advantages, clipped_objective, divisor
from tests.tasks.grpo.oracle import CASES, GOLDEN, MAX_NEW_TOKENS, inputs, of_trl


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_trl(name):
    case, given, loss_type = dict(CASES[name]), inputs(), name.split()[0]
    logs, mask = given["logs"].requires_grad_(), given["mask"]
    corrected = case.pop("correction")
    found = clipped_objective(
        logs,
        given["old"],
        given["advantages"],
        mask,
        mask.sum(1),
        lambda values: values.sum(1),
        lambda values: values[:, None].expand_as(mask),
        loss=loss_type,
        reference=given["reference"],
        correction=given["correction"] if corrected else None,
        **case,
    )
    loss = found.loss / divisor(loss_type, len(mask), int(mask.sum()), MAX_NEW_TOKENS)
    loss.backward()
    golden = json.loads(GOLDEN.read_text())[name]
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-5)
    torch.testing.assert_close(logs.grad, torch.tensor(golden["gradient"], dtype=torch.float64), rtol=1e-5, atol=1e-9)
    assert found.clipped.any()
    assert not found.clipped.all()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_golden_values_are_those_that_trl_computes_now(name):
    pytest.importorskip("trl")
    loss, gradient = of_trl(name)
    golden = json.loads(GOLDEN.read_text())[name]
    assert loss == pytest.approx(golden["loss"], rel=1e-9)
    torch.testing.assert_close(torch.tensor(gradient), torch.tensor(golden["gradient"]))


def test_advantages_are_above_the_group_and_groups_without_rewards_are_in_no_mean():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [torch.nan] * 3, [4.0, 4.0, 4.0]], dtype=torch.float64)
    by_group = advantages(rewards, "grpo", "group")
    assert by_group[0].tolist() == pytest.approx([-2 / 2.645851, -1 / 2.645851, 3 / 2.645851], rel=1e-6)
    assert by_group[1:].tolist() == [[0.0] * 3] * 2
    spread = float(rewards[[0, 2]].std()) + 1e-4
    assert advantages(rewards, "dapo", "batch")[0].tolist() == pytest.approx([-2 / spread, -1 / spread, 3 / spread])
    assert advantages(rewards, "dr_grpo", "none")[0].tolist() == [-2, -1, 3]
    # beside the mean of the others
    assert advantages(rewards, "rloo", "group")[0].tolist() == [1 - 4, 2 - 3.5, 6 - 1.5]
