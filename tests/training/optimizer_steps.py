"""A tiny Llama and single optimizer steps on made-up gradients, for the tests of optimizers."""

import math

import torch

from litespark.models.init import initialise
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.training.step import finish_gradients
from tests.training.small_runs import small_llama


def llama(**changes):
    model = Llama(small_llama(**changes), resolve(OpsConfig()))
    initialise(model, model.config, 0)
    return model


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def states(model, optimizer):
    return {
        (name, key): value.clone()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]), key


def step(model, optimizer, seed, *, bad=None):
    give_gradients(model, seed)
    loss = torch.ones(())
    if bad == "loss":
        loss = loss * math.nan
    elif bad is not None:
        where, value = bad
        dict(model.named_parameters())[where].grad[1] = value
    result = finish_gradients(optimizer, loss, torch.tensor(8.0), world_size=1, grad_clip=1.0)
    optimizer.step()
    return int(result.skipped)
