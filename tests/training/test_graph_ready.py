"""What a CUDA graph of a step needs: tensors that outlive it stay where they are, and its scalars lie in tensors."""

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from litespark.ops.fp8.settings import Fp8Config
from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.step import OptimizerStep
from tests.training.small_runs import CPU, batches, small_run, training_module

FP8 = Fp8Config(bf16_first=0, bf16_last=0, simulate=True)


class Addresses(pl.Callback):
    """Where every tensor that outlives a step lies, after each step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, *_):
        (optimizer,) = trainer.optimizers
        owners = [module, module.step, optimizer, *optimizer.param_groups, *optimizer.state.values()]
        if module.model.fp8 is not None:
            operands = [linear._operand for linear in module.model.fp8.linears.values()]
            codes = [vars(matrix) for operand in operands for matrix in (operand.rows, operand.columns)]
            owners += [module.model.fp8.scaling, *codes]
        kept = [owner if isinstance(owner, dict) else vars(owner) for owner in owners]
        named = {(place, name): value for place, values in enumerate(kept) for name, value in values.items()}
        named |= dict(module.model.named_parameters())
        self.steps.append({name: value.data_ptr() for name, value in named.items() if isinstance(value, Tensor)})


@pytest.mark.parametrize(
    "optimizer, fp8",
    [(AdamWConfig(lr=1e-2), None), (AdamWConfig(lr=1e-2), FP8), (MuonConfig(lr=1e-2), None)],
    ids=["adamw", "adamw in simulated fp8", "muon"],
)
def test_a_step_keeps_every_address(tmp_path, optimizer, fp8):
    module, addresses = training_module(steps=5, sequences=2, optimizer=optimizer, fp8=fp8), Addresses()
    small_run(tmp_path, module, log_every=2, callbacks=[addresses]).trainer.fit(module, batches(2))
    # in the first step the scales of fp8 are the tensors' own
    first, *others = addresses.steps[fp8 is not None :]
    assert len(others) >= 3
    assert len(first) > 20
    assert [{name for name in first if step[name] != first[name]} for step in others] == [set()] * len(others)


@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-2), MuonConfig(lr=1e-2)], ids=["adamw", "muon"])
@pytest.mark.parametrize("change", [None, "rate", "skipped"])
def test_a_step_takes_its_scalars_from_tensors(change, optimizer):
    module = training_module(steps=1, sequences=2, optimizer=optimizer)
    module.construct(CPU)
    optimizer = module.configure_optimizers()
    step = OptimizerStep(module.task, grad_clip=1.0, device=CPU)
    step.loss(module.model, next(iter(batches(2).train_dataloader()))).backward()
    step.finish(optimizer)
    before = [parameter.detach().clone() for parameter in module.model.parameters()]
    # as one changes what a replay of a graph reads
    if change == "rate":
        for group in optimizer.param_groups:
            group["lr"].zero_()
    elif change == "skipped":
        optimizer.found_inf.fill_(1.0)
    optimizer.step()
    assert [torch.equal(*pair) for pair in zip(before, module.model.parameters(), strict=True)] == [
        change is not None
    ] * len(before)
