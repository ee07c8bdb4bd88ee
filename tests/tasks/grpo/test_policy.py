"""GRPO under the real Trainer, on prompts whose reward is to say low ids."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.data.examples.example import Example
from litespark.run.metric_rows import read_metrics
from litespark.tasks.grpo.losses import clipped_objective, divisor
from litespark.tasks.grpo.rollout import Tools
from litespark.tasks.grpo.settings import GRPO
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.optim import AdamWConfig
from tests.models.small import small_model
from tests.tasks.small_dpo import StopAfter, weights
from tests.tasks.toy_examples import VOCABULARY, Examples
from tests.training.small_runs import small_run, training_module

_DRAWN = np.random.default_rng(0)
PROMPTS = [
    Example((ids,), (np.zeros(ids.size, dtype=np.float32),), {"bonus": float(place == 3)})
    for place, ids in enumerate(_DRAWN.integers(2, VOCABULARY, n).astype(np.int32) for n in (3, 5, 2, 4, 7, 3, 6, 2))
]


def low(group):
    return [
        sum(int(word) < VOCABULARY // 2 for word in text.split()) + group.columns["bonus"] for text in group.completions
    ]


def policy(phases=None, sample=None, seq_len=48, share_prompts=False, **settings):
    asked = {"rewards": {"low": 1.0}, "num_generations": 4, "max_new_tokens": 6} | settings
    tools = Tools(
        examples=lambda split: PROMPTS,
        decode=lambda ids: "".join(f"{number} " for number in ids),
        ends=frozenset({0, 1}),
        vocab_size=VOCABULARY,
        fill_id=0,
        seq_len=seq_len,
        seed=3,
        during=nullcontext if phases is None else phases.during,
        sample=sample,
        reward_models=lambda folders, longest: {"low": low},
        share_prompts=share_prompts,
    )
    return GRPO(**asked).running(tools)


def grpo_run(folder: Path, *, micro_batch_size=2, resume=False, stop=None, steps=6, **settings):
    folder.mkdir(exist_ok=True)
    data = Examples(PROMPTS, PROMPTS[:3], per_row=1, micro_batch_size=micro_batch_size)
    phases = Phases()
    module = training_module(
        steps=steps, sequences=4, task=policy(phases, **settings), vocab_size=VOCABULARY, max_seq_len=48,
        optimizer=AdamWConfig(lr=0.05), hidden_size=16,
    )  # fmt: skip
    module.metrics = module.task.metrics(data.manifest)
    saver = Checkpointer(folder / "checkpoints", every_steps=1, keep=99, about={}, phases=phases)
    seen = []
    phases.listen(lambda before, after: seen.append(after))
    run = small_run(
        folder, module, accumulate=4 // micro_batch_size, validate_every=steps, phases=phases,
        callbacks=[saver, StopAfter(stop)],
    )  # fmt: skip
    state = checkpoint_folder.find(folder / "checkpoints").folder if resume else None
    run.trainer.fit(module, data, ckpt_path=state, weights_only=True)
    run.metrics.save()
    return run, read_metrics(folder), seen


@pytest.mark.parametrize(
    "settings",
    [{"loss_type": "grpo", "temperature": 0.7, "top_k": 25, "top_p": 0.99}, {"loss_type": "rloo"}],
    ids=["grpo", "rloo"],
)
def test_the_reward_rises_and_what_is_observed_is_logged(tmp_path, settings):
    run, rows, seen = grpo_run(tmp_path, steps=20, num_generations=8, **settings)
    rows = [row for row in rows if "train/reward" in row]
    assert sum(row["train/reward"] for row in rows[-4:]) > 4 * (rows[0]["train/reward"] + 1)
    assert rows[0]["train/reward"] == pytest.approx(rows[0]["train/reward_low"])
    assert 0 < rows[-1]["train/completion_length"] <= 6
    assert rows[0]["train/sampler_gap"] < 1e-5
    assert rows[0]["train/clip_share"] == 0
    assert rows[0]["train/left_out_raised"] == rows[0]["train/equal_rewards"] == 0
    # of the first weights nearly that of a uniform choice
    assert 0.7 * math.log(VOCABULARY) < rows[0]["train/entropy"] < 1.3 * math.log(VOCABULARY)
    assert run.module.validation["validation/loss"] == -run.module.validation["validation/reward"]
    assert {"rollout", "reward"} <= set(seen)


@pytest.mark.parametrize(("stop", "loss_type", "beta"), [(2, "grpo", 0.0), (3, "rloo", 0.2), (4, "dapo", 0.2)])
def test_a_resume_between_any_two_steps_of_a_rollout_gives_the_same_bits(tmp_path, stop, loss_type, beta):
    asked = {"num_iterations": 3, "loss_type": loss_type, "beta": beta}
    whole, rows, _ = grpo_run(tmp_path / "whole", **asked)
    grpo_run(tmp_path / "cut", stop=stop, **asked)
    cut, of_cut, _ = grpo_run(tmp_path / "cut", resume=True, **asked)
    if beta:
        assert rows[0]["train/kl"] == pytest.approx(0, abs=1e-6)
        assert abs(rows[3]["train/kl"]) > 1e-3
    else:
        assert "train/kl" not in rows[3]
    for name, values in weights(whole).items():
        assert torch.equal(weights(cut)[name], values), name
    assert of_cut[-1]["train/reward"] == rows[-1]["train/reward"]
    # the same samples in three steps, and other ones then
    rewards = [row["train/reward"] for row in rows if "train/reward" in row]
    assert len(set(rewards[:3])) == len(set(rewards[3:])) == 1
    assert len(set(rewards)) == 2
    assert rows[1]["train/sampler_gap"] == pytest.approx(rows[0]["train/sampler_gap"])


def test_neither_micro_batches_nor_a_group_that_is_left_out_change_the_rest(tmp_path):
    (whole, rows, _), (cut, of_cut, _) = (
        grpo_run(tmp_path / str(size), micro_batch_size=size, steps=3) for size in (4, 1)
    )
    for name, values in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], values, rtol=1e-4, atol=1e-6)
    assert of_cut[0]["train/reward"] == pytest.approx(rows[0]["train/reward"])


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "rloo"])
def test_the_loss_of_a_packed_batch_is_that_of_sequences_one_by_one(loss_type):
    model = small_model(vocab_size=VOCABULARY).eval()
    task = policy(loss_type=loss_type, num_iterations=2, seq_len=24, scale_rewards="none")
    data = Examples(PROMPTS, PROMPTS[:3], per_row=1, micro_batch_size=3)
    batch = task.rolled(model, next(iter(data.train_dataloader())), 0, 0)
    assert batch.tokens.shape[0] < 12  # several completions share a sequence
    batch.old = batch.sampled + 0.3 * torch.randn(batch.sampled.shape, generator=torch.Generator().manual_seed(1))
    batch.counted[4:8], batch.counted_completions = 0, 8  # as a group that is left out
    batch.counted_tokens = int((batch.lengths * batch.counted).sum())
    loss = task.loss(model, batch)
    logs, old, mask = (torch.zeros(12, 6) for _ in range(3))
    for number in range(12):
        row, places = torch.where(batch.sequence_of == number)
        row = int(row[0])
        ids = torch.cat([batch.tokens[row, places], batch.labels[row, places[-1:]]])
        count = int(batch.lengths[number])
        found = model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        logs[number, :count] = found[-count:]
        old[number, :count] = batch.old[row, places][-count:]
        mask[number, :count] = batch.counted[number]
    expected = clipped_objective(
        logs, old, batch.advantages, mask, batch.lengths, lambda x: x.sum(1), lambda x: x[:, None].expand(12, 6),
        loss=loss_type, epsilon=0.2, epsilon_high=0.2,
    ).loss  # fmt: skip
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert task.divisor(batch) == divisor(loss_type, 8, int(mask.sum()), 6)


def test_importance_is_corrected_where_the_sampler_and_the_trainer_differ():
    model = small_model(vocab_size=VOCABULARY).eval()
    data = Examples(PROMPTS, PROMPTS[:3], per_row=1, micro_batch_size=2)
    prompts = next(iter(data.train_dataloader()))
    losses, batches = {}, {}
    for cap in (None, 1.5):
        task = policy(importance_cap=cap, scale_rewards="none")
        batches[cap] = batch = task.rolled(model, prompts, 0, 0)
        batch.sampled = torch.where(batch.weights > 0, batch.sampled - 1.0, 0.0)
        losses[cap], observed = task.observe(model, batch)
        assert observed[-1, 0] / observed[-1, 1] == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(losses[1.5], 1.5 * losses[None])  # e > 1.5


def test_groups_of_equal_rewards_are_counted_and_deviations_are_of_all_ranks():
    model = small_model(vocab_size=VOCABULARY).eval()
    prompts = next(iter(Examples(PROMPTS, PROMPTS[:3], per_row=1, micro_batch_size=2).train_dataloader()))
    task = policy(scale_rewards="batch")
    task.scorer.own["low"] = lambda group: [1.0] * 4 if group.columns["bonus"] else [0.0, 1.0, 2.0, 3.0]
    task.tools = replace(task.tools, gather=lambda values: [values, [100.0, -100.0]])  # of another rank
    batch = task.rolled(model, prompts, 0, 0)
    equal = task.observed.index("equal_rewards")
    bonus = [PROMPTS[number].about["bonus"] for number in prompts.examples.tolist()]
    assert task.observe(model, batch)[1][equal].tolist() == [sum(bonus), 2]
    assert 0 < batch.advantages.abs().max() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "task.temperature: got 0.0, expected .* above 0"),
        ({"num_generations": 1}, "task.num_generations: got 1, expected .* at least 2"),
        ({"rewards": {}}, "task.rewards: got {}, expected one at least"),
        ({"rewards": {"a.parses": 1.0, "parses": 1.0}}, "task.rewards: got two of one name"),
        ({"loss_type": "rloo", "importance_cap": 2.0}, "task.importance_cap: got 2 with task.loss_type=rloo"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        policy(**settings)


def test_what_does_not_fit_or_is_lost_is_told():
    model = small_model(vocab_size=VOCABULARY).eval()
    prompts = next(iter(Examples(PROMPTS, PROMPTS[:3], per_row=1).train_dataloader()))
    with pytest.raises(ValueError, match=r"more than data.seq_len=5; raise it, or lower data.max_prompt_length"):
        policy(seq_len=5).rolled(model, prompts, 0, 0)
    with pytest.raises(ValueError, match="step 4 learns from the rollout of step 3, which is not there"):
        policy(num_iterations=3).rolled(model, prompts, 4, 0)
