"""Tasks over examples under the real Trainer: what is logged, and what a resume and micro-batches change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from litespark.callbacks.validation import Validation
from litespark.data.examples.batch import pack
from litespark.run.folder import REFERENCE
from litespark.tasks.sft import SFT
from litespark.training.step import OptimizerStep
from tests.models.small import small_model
from tests.tasks.small_dpo import dpo_run, weights
from tests.tasks.toy_examples import VOCABULARY, Examples, random_examples
from tests.training.small_runs import CPU


def test_dpo_begins_at_the_reference_and_its_numbers_are_over_the_window(tmp_path):
    _, rows = dpo_run(tmp_path)
    first, last = rows[0], rows[-1]
    assert first["train/loss"] == pytest.approx(0.693147, rel=1e-5)  # log 2: the policy is the reference
    assert first["train/margin"] == pytest.approx(0, abs=1e-6)
    assert first["train/log_ratio"] == pytest.approx(0, abs=1e-6)
    assert last["train/loss"] < first["train/loss"]
    assert last["train/margin"] > 0.001
    assert last["train/margin"] == pytest.approx(last["train/chosen_reward"] - last["train/rejected_reward"], abs=1e-5)
    assert last["train/accuracy"] > 0.5
    assert 0 < last["validation/loss"] < 0.75
    assert {"validation/accuracy", "validation/margin", "validation/log_ratio"} <= last.keys()


def test_held_out_pairs_are_measured_before_the_first_step_and_pairs_are_counted(tmp_path):
    run, (before, *_) = dpo_run(tmp_path, callbacks=[Validation(None, at_start=True)])
    assert before["step"] == 0
    assert before["validation/loss"] == pytest.approx(0.693147, rel=1e-5)
    resumed, rows = dpo_run(tmp_path, callbacks=[Validation(None, at_start=True)], resume=True)
    assert [row["step"] for row in rows if "validation/loss" in row] == [0, 2, 4]
    epochs, rest = divmod(4 * 4, 7)  # rows of two pairs but the last, which has one
    assert run.module.examples_seen == resumed.module.examples_seen
    assert 13 * epochs + 2 * rest - 1 <= run.module.examples_seen <= 13 * epochs + 2 * rest


def test_micro_batches_change_nothing(tmp_path):
    (whole, rows), (cut, of_cut) = dpo_run(tmp_path / "a"), dpo_run(tmp_path / "b", micro_batch_size=1)
    for name, values in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], values, rtol=1e-4, atol=1e-6)
    for row, other in zip(rows, of_cut, strict=True):
        for name in ("train/loss", "train/margin", "train/accuracy", "validation/margin"):
            assert other.get(name, 0) == pytest.approx(row.get(name, 0), rel=1e-4, abs=1e-6), name


def test_a_reference_is_computed_once_read_on_resume_and_missed_when_it_is_lost(tmp_path, monkeypatch):
    whole, _ = dpo_run(tmp_path / "whole", cache=tmp_path / "cache")

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("litespark.callbacks.reference.compute_reference", forbidden)
    second = tmp_path / "second"
    dpo_run(second, cache=tmp_path / "cache", stop=2)
    kept = (second / REFERENCE).read_bytes()
    (second / REFERENCE).unlink()
    with pytest.raises(ValueError, match=r"reference.npz is lost.*at step 2"):
        dpo_run(second, resume=True)
    (second / REFERENCE).write_bytes(kept)
    resumed, _ = dpo_run(second, cache=tmp_path / "none", resume=True)
    for name, values in weights(whole).items():
        assert torch.equal(weights(resumed)[name], values), name


def alone(model, example):
    """Nats of each label of the sequences of an example, computed one by one and with whole logits."""
    for ids in example.sequences:
        of = torch.from_numpy(ids).long()
        yield functional.cross_entropy(model(of[None, :-1])[0], of[1:], reduction="none")


def test_sft_weighs_tokens_alike_over_micro_batches_however_small_their_weights():
    examples = [
        replace(example, weights=tuple(of * np.float32(scale) for of in example.weights))
        for example, scale in zip(random_examples(5, sequences=1, seed=4), (0.01, 0.02, 0.003, 0.05, 0.01), strict=True)
    ]
    model, task = small_model(), SFT()
    expected = divisor = 0.0
    for example in examples:
        weights = torch.from_numpy(example.weights[0][1:])
        expected, divisor = expected + (next(alone(model, example)) * weights).sum(), divisor + weights.sum()
    assert divisor < 1
    (expected / divisor).backward()
    of_whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    step = OptimizerStep(task, grad_clip=None, device=CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for rows in ([[(0, examples[0]), (1, examples[1])], [(2, examples[2])]], [[(3, examples[3])], [(4, examples[4])]]):
        step.loss(model, pack(rows, 48, fill_id=0)).backward()
    step.finish(optimizer)
    assert (step.sums[0] / step.sums[1]).item() == pytest.approx((expected / divisor).item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, of_whole[name], rtol=1e-4, atol=1e-7)


def test_validation_of_sft_is_by_weight_and_bits_per_byte_by_token():
    examples = [*random_examples(2, sequences=1, weight=0.5), *random_examples(3, sequences=1, seed=2)]
    data, model, task = Examples(examples, examples, per_row=5), small_model(), SFT()
    manifest = replace(data.manifest, token_bytes=[1 + number % 3 for number in range(VOCABULARY)])
    metrics = task.metrics(manifest)
    with torch.no_grad():
        task.evaluate(model, next(iter(data.val_dataloader())), metrics)
        nats = [(next(alone(model, it)), torch.from_numpy(it.weights[0][1:])) for it in examples]
    values = metrics.compute()
    loss = sum((of * w).sum() for of, w in nats) / sum(w.sum() for _, w in nats)
    assert values["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert values["perplexity"].item() == pytest.approx(loss.exp().item(), rel=1e-5)
    size = sum(1 + int(i) % 3 for it in examples for i, w in zip(it.sequences[0], it.weights[0], strict=True) if w)
    bits = sum(of[w > 0].sum() for of, w in nats) / size / np.log(2)
    assert values["bits_per_byte"].item() == pytest.approx(bits.item(), rel=1e-5)
