"""One optimizer step without a Trainer: the same as under it, bit for bit."""

import itertools
import json

import pytest
import torch

from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.step import OptimizerStep
from tests.training.small_runs import CPU, batches, small_run, training_module

STEPS, ACCUMULATE = 3, 4


@pytest.mark.parametrize(
    "optimizer",
    [AdamWConfig(lr=1e-2, grad_clip=0.5), AdamWConfig(lr=1e-2, fused=False), MuonConfig(lr=1e-2)],
    ids=["fused", "unfused", "muon"],
)
def test_steps_in_plain_pytorch_are_those_under_the_trainer(tmp_path, optimizer):
    settings = {"steps": STEPS, "rows": 2 * ACCUMULATE, "optimizer": optimizer}
    run = small_run(tmp_path, training_module(**settings), accumulate=ACCUMULATE)
    run.trainer.fit(run.module, batches(2))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["train/learning_rate"] for row in rows]

    plain = training_module(**settings)
    plain.construct(CPU)
    taken = plain.configure_optimizers()
    step = OptimizerStep(plain.task, grad_clip=optimizer.grad_clip, device=CPU)
    stream = iter(batches(2).train_dataloader())
    losses = []
    for rate in rates:
        step.take(plain.model, taken, itertools.islice(stream, ACCUMULATE), rate)
        loss, tokens = step.sums.tolist()
        losses.append(loss / tokens)
    assert losses == [row["train/loss"] for row in rows]
    for (name, ours), theirs in zip(plain.model.named_parameters(), run.module.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
