"""Steps that are left out, and states in a checkpoint."""

import copy
import io
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.training.optim import AdamWConfig, MuonConfig, build_optimizer, set_learning_rate
from litespark.training.step import finish_gradients
from tests.training.optimizer_steps import assert_same, give_gradients, llama, states, step, weights
from tests.training.small_runs import small_llama

OPTIMIZERS = {"fused": AdamWConfig(lr=0.02), "unfused": AdamWConfig(lr=0.02, fused=False), "muon": MuonConfig(lr=0.02)}
ALL = pytest.mark.parametrize("config", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
BAD = ["loss", ("blocks.0.mlp.down.weight", math.nan), ("norm.weight", math.inf), ("head.weight", -math.inf)]


@ALL
@pytest.mark.parametrize("bad", BAD)
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_is_as_if_it_had_not_been(config, bad):
    model, other = llama(), llama()
    optimizer, undisturbed = (build_optimizer(each, config) for each in (model, other))
    untouched = weights(model)
    assert step(model, optimizer, 3, bad=bad) == 1
    assert_same(untouched, weights(model))
    assert all(value.isfinite().all() for value in states(model, optimizer).values())
    optimizer = build_optimizer(model, config)
    assert step(model, optimizer, 0) == 0
    before = weights(model), states(model, optimizer)
    assert step(model, optimizer, 1, bad=bad) == 1
    assert_same(before[0], weights(model))
    assert_same(before[1], states(model, optimizer))
    assert step(model, optimizer, 2) == 0
    assert step(other, undisturbed, 0) == step(other, undisturbed, 2) == 0
    assert_same(weights(model), weights(other))
    assert_same(states(model, optimizer), states(other, undisturbed))


@ALL
def test_parameters_without_a_gradient_are_passed_over(config):
    model = llama(num_layers=2)
    optimizer = build_optimizer(model, config)
    give_gradients(model, 0)
    model.blocks[1].mlp.down.weight.grad = model.head.weight.grad = None
    before = weights(model)
    finish_gradients(optimizer, torch.ones(()), torch.ones(()), world_size=1, grad_clip=1.0)
    optimizer.step()
    same = {name for name, value in weights(model).items() if torch.equal(value, before[name])}
    assert same == {"blocks.1.mlp.down.weight", "head.weight"}


def test_the_host_reads_nothing_from_the_device_in_a_step():
    """A fake tensor has no values: whoever asks it for one gets an error."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = Llama(small_llama(), resolve(OpsConfig()))
        optimizer = build_optimizer(model, MuonConfig())
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        result = finish_gradients(optimizer, torch.ones(()), torch.ones(()), world_size=1, grad_clip=1.0)
        optimizer.step()
        with pytest.raises(RuntimeError):
            result.skipped.item()


def reloaded(state):
    """As a checkpoint brings it back: through a file, and nothing but tensors and plain values."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "was, now",
    [(MuonConfig(lr=0.02), MuonConfig(lr=0.02, matrix_lr=0.01, momentum=0.5, weight_decay=0.4, betas=(0.7, 0.8))),
     (AdamWConfig(lr=0.02), AdamWConfig(lr=0.02, weight_decay=0.4, betas=(0.7, 0.8)))],
    ids=["muon", "adamw"],
)  # fmt: skip
def test_a_loaded_state_brings_no_settings(was, now):
    model = llama()
    optimizer = build_optimizer(model, was)
    step(model, optimizer, 0)
    other = copy.deepcopy(model)
    changed = build_optimizer(other, now)
    fresh = [{key: value for key, value in group.items() if key != "params"} for group in changed.param_groups]
    changed.load_state_dict(reloaded(optimizer.state_dict()))
    loaded = [{key: value for key, value in group.items() if key != "params"} for group in changed.param_groups]
    assert loaded == fresh
    assert_same(states(model, optimizer), states(other, changed))


@pytest.mark.parametrize("was, now", [(MuonConfig(), AdamWConfig()), (AdamWConfig(), MuonConfig())])
def test_the_state_of_another_optimizer_is_refused(was, now):
    state = build_optimizer(llama(), was).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        build_optimizer(llama(), now).load_state_dict(state)


def test_the_learning_rate_of_each_keeps_its_share():
    optimizer = build_optimizer(llama(), MuonConfig(lr=0.1, matrix_lr=0.4))
    assert {("rows" in group): group["lr"] for group in optimizer.param_groups} == {True: 0.4, False: 0.1}
    set_learning_rate(optimizer, 0.05)
    assert {("rows" in group): group["lr"] for group in optimizer.param_groups} == {True: 0.2, False: 0.05}
    optimizer = build_optimizer(llama(), MuonConfig(lr=0.1))
    set_learning_rate(optimizer, 0.03)
    assert {group["lr"] for group in optimizer.param_groups} == {0.03}
