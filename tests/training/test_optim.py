"""The optimizers: who has which parameter, PyTorch's own two as the reference of Muon, skipped steps, loaded states."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from litespark.models.init import initialise
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.training.optim import AdamWConfig, MuonConfig, OptimizerConfig, build_optimizer
from litespark.training.optim.muon import block_matrices
from litespark.training.schedule import set_learning_rate
from litespark.training.step import finish_gradients
from tests.training.small_runs import small_llama

OPTIMIZERS = {"fused": AdamWConfig(lr=0.02), "unfused": AdamWConfig(lr=0.02, fused=False), "muon": MuonConfig(lr=0.02)}
ALL = pytest.mark.parametrize("config", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


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
    torch.testing.assert_close(left, right, rtol=0, atol=0)


# ------------------------------------------------------------------ groups

# H·Dh 8, K·Dh 4, F 16, D 8
PARTS = {"attention.qkv": (8, 4, 4), "attention.output": (8,), "mlp.gate_up": (16, 16), "mlp.down": (8,)}


@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("kind, fused", [(AdamWConfig, True), (AdamWConfig, False), (MuonConfig, True)])
def test_each_parameter_is_in_one_group_and_muon_has_the_matrices_of_the_blocks(kind, fused, tie_embeddings):
    biases = {"attention_bias": tie_embeddings, "mlp_bias": tie_embeddings}
    model = llama(num_layers=2, tie_embeddings=tie_embeddings, **biases)
    chosen = {} if fused else {"fused": False}
    optimizer = build_optimizer(model, kind(lr=0.5, betas=[0.7, 0.8], eps=1e-6, weight_decay=0.3, **chosen))
    called = {parameter: name.removesuffix(".weight") for name, parameter in model.named_parameters()}
    found = {called[p]: group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found) == len(called)
    muon = {name: group["rows"] for name, group in found.items() if "rows" in group}
    matrices = {f"blocks.{layer}.{name}": rows for layer in (0, 1) for name, rows in PARTS.items()}
    assert muon == (matrices if kind is MuonConfig else {})
    assert ("head" in found) is not tie_embeddings
    for name, group in found.items():
        is_vector = "norm" in name or name.endswith(".bias")
        assert (group["weight_decay"], bool(group["fused"])) == (0.0 if is_vector else 0.3, fused), name
        if name not in muon:
            assert (float(group["lr"]), group["betas"], group["eps"]) == (0.5, (0.7, 0.8), 1e-6)


@ALL
def test_frozen_parameters_are_left_out(config):
    model = llama()
    model.blocks[0].mlp.requires_grad_(False)
    model.norm.requires_grad_(False)
    optimised = {p for group in build_optimizer(model, config).param_groups for p in group["params"]}
    assert optimised == {parameter for parameter in model.parameters() if parameter.requires_grad}


def test_what_has_no_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optim=muon: got a Linear without a trained matrix.*optim=adamw"):
        build_optimizer(nn.Linear(3, 3), MuonConfig())
    with pytest.raises(ValueError, match=r"got a OptimizerConfig, expected a class with a method `build"):
        build_optimizer(llama(), OptimizerConfig())
    with pytest.raises(ValueError, match=r"got original and no optim.matrix_lr.*Set optim.matrix_lr=0.02, or"):
        MuonConfig(adjust_lr="original")


def test_the_learning_rate_of_each_keeps_its_share():
    optimizer = build_optimizer(llama(), MuonConfig(lr=0.1, matrix_lr=0.4))
    assert {("rows" in group): float(group["lr"]) for group in optimizer.param_groups} == {True: 0.4, False: 0.1}
    set_learning_rate(optimizer, 0.05)
    assert {("rows" in group): float(group["lr"]) for group in optimizer.param_groups} == {True: 0.2, False: 0.05}
    optimizer = build_optimizer(llama(), MuonConfig(lr=0.1))
    set_learning_rate(optimizer, 0.03)
    assert {float(group["lr"]) for group in optimizer.param_groups} == {0.03}


# ------------------------------------------------------------------ Muon


class Separate:
    """`torch.optim.Muon` on the separate matrices of `model`, which share its memory, and `torch.optim.AdamW`."""

    def __init__(self, model, config):
        matrices = block_matrices(model)
        self.views = [
            (parameter, [nn.Parameter(part) for part in parameter.detach().split(rows)])
            for parameter, rows in matrices.items()
        ]
        others = [parameter for parameter in model.parameters() if parameter not in matrices]
        self.muon = torch.optim.Muon(
            [part for _, parts in self.views for part in parts],
            lr=config.lr if config.matrix_lr is None else config.matrix_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            nesterov=config.nesterov,
            ns_steps=config.newton_schulz_steps,
            adjust_lr_fn=config.adjust_lr,
        )
        self.adamw = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim == 2], "weight_decay": config.weight_decay},
                {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )

    def step(self):
        for parameter, parts in self.views:
            for part, gradient in zip(parts, parameter.grad.split([len(p) for p in parts]), strict=True):
                part.grad = gradient
        self.muon.step()
        self.adamw.step()


CONFIGS = {
    "defaults": MuonConfig(lr=0.02),
    "no nesterov": MuonConfig(lr=0.02, nesterov=False, momentum=0.8, weight_decay=0.0),
    "original": MuonConfig(lr=0.01, matrix_lr=0.04, adjust_lr="original", newton_schulz_steps=3, betas=(0.8, 0.9)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_steps_are_those_of_pytorch_on_separate_matrices_bit_for_bit(config):
    ours = llama(num_layers=2)
    theirs = copy.deepcopy(ours)
    optimizer, separate = build_optimizer(ours, config), Separate(theirs, config)
    for seed in range(4):
        before = weights(ours)
        for model in (ours, theirs):
            give_gradients(model, seed)
        optimizer.step()
        separate.step()
        assert_same(weights(ours), weights(theirs))
        assert all(not torch.equal(before[key], value) for key, value in weights(ours).items())


def test_the_end_of_a_step_normalises_and_clips_for_both():
    ours = llama()
    theirs = copy.deepcopy(ours)
    # an epsilon of the size of the gradients makes AdamW feel their scale
    config = MuonConfig(lr=0.02, eps=1e-2, grad_clip=0.5)
    optimizer, separate = build_optimizer(ours, config), Separate(theirs, config)
    for seed, tokens in enumerate((1.0, 500.0, 40.0)):
        for model in (ours, theirs):
            give_gradients(model, seed)
        found = finish_gradients(optimizer, torch.ones(()), torch.tensor(tokens), ranks=2, grad_clip=0.5)
        for parameter in theirs.parameters():
            parameter.grad *= 2 / tokens
        assert float(found.norm) == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)), rel=1e-5)
        optimizer.step()
        separate.step()
    mine = dict(zip(theirs.parameters(), ours.parameters(), strict=True))
    for parameter, parts in separate.views:
        momentum = torch.cat([separate.muon.state[part]["momentum_buffer"] for part in parts])
        assert (optimizer.state[mine[parameter]]["momentum_buffer"] - momentum).norm() / momentum.norm() < 1e-6
    for name, its in theirs.named_parameters():
        assert (mine[its] - its).norm() / its.norm() < (2e-6 if "norm" in name or "blocks" not in name else 1e-3), name


# ------------------------------------------------------------------ steps that are left out


def step(model, optimizer, seed, *, bad=None):
    give_gradients(model, seed)
    loss = torch.ones(())
    if bad == "loss":
        loss = loss * math.nan
    elif bad is not None:
        where, value = bad
        model.get_parameter(where).grad[1] = value
    result = finish_gradients(optimizer, loss, torch.tensor(8.0), ranks=1, grad_clip=1.0)
    optimizer.step()
    return int(result.skipped)


@ALL
@pytest.mark.parametrize("bad", ["loss", ("blocks.0.mlp.down.weight", math.nan), ("norm.weight", math.inf)])
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
    assert_same(before, (weights(model), states(model, optimizer)))
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
    finish_gradients(optimizer, torch.ones(()), torch.ones(()), ranks=1, grad_clip=1.0)
    optimizer.step()
    same = {name for name, value in weights(model).items() if torch.equal(value, before[name])}
    assert same == {"blocks.1.mlp.down.weight", "head.weight"}


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_without_supervised_tokens_stays_finite(fused):
    model = llama()
    before = weights(model)
    optimizer = build_optimizer(model, AdamWConfig(fused=fused, weight_decay=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    result = finish_gradients(optimizer, torch.zeros(()), torch.zeros(()), ranks=1, grad_clip=1.0)
    optimizer.step()
    assert (float(result.norm), float(result.skipped)) == (0.0, 0.0)
    assert_same(before, weights(model))


def test_the_host_reads_nothing_from_the_device_in_a_step():
    """A fake tensor has no values: whoever asks it for one gets an error."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = Llama(small_llama(), resolve(OpsConfig()))
        optimizer = build_optimizer(model, MuonConfig())
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        result = finish_gradients(optimizer, torch.ones(()), torch.ones(()), ranks=1, grad_clip=1.0)
        optimizer.step()
        with pytest.raises(RuntimeError):
            result.skipped.item()


# ------------------------------------------------------------------ loaded states


@pytest.mark.parametrize(
    "was, now",
    [
        (MuonConfig(lr=0.02), MuonConfig(lr=0.02, matrix_lr=0.01, momentum=0.5, weight_decay=0.4, betas=(0.7, 0.8))),
        (AdamWConfig(lr=0.02), AdamWConfig(lr=0.02, weight_decay=0.4, betas=(0.7, 0.8))),
    ],
    ids=["muon", "adamw"],
)
def test_a_loaded_state_brings_no_settings_and_another_optimizer_does_not_take_it(was, now):
    def settings():
        return [{key: value for key, value in group.items() if key != "params"} for group in changed.param_groups]

    model = llama()
    optimizer = build_optimizer(model, was)
    step(model, optimizer, 0)
    other = copy.deepcopy(model)
    changed = build_optimizer(other, now)
    fresh = settings()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    changed.load_state_dict(state)
    assert settings() == fresh
    assert_same(states(model, optimizer), states(other, changed))
    another = build_optimizer(llama(), AdamWConfig() if isinstance(now, MuonConfig) else MuonConfig())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        another.load_state_dict(state)


# ------------------------------------------------------------------ AdamW in Triton


@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
def test_states_of_either_kernel_load_into_the_other_and_go_on_alike(kind):
    """Sizes are whole vectors, whose bits agree."""
    kernels = "triton", "torch"
    models = {kernel: llama(hidden_size=32, intermediate_size=64, head_dim=16) for kernel in kernels}
    optimizers = {kernel: build_optimizer(models[kernel], kind(lr=0.02, adamw_kernel=kernel)) for kernel in kernels}
    for kernel in kernels:
        step(models[kernel], optimizers[kernel], 0)
        step(models[kernel], optimizers[kernel], 1, bad="loss")
    saved = {kernel: copy.deepcopy(optimizers[kernel].state_dict()) for kernel in kernels}
    for kernel, other in (kernels, kernels[::-1]):
        optimizers[kernel].load_state_dict(saved[other])
        step(models[kernel], optimizers[kernel], 2)
    ours, theirs = ((weights(models[kernel]), states(models[kernel], optimizers[kernel])) for kernel in kernels)
    assert_same(ours[0], theirs[0])
    assert_same(ours[1], theirs[1])


def test_a_step_in_triton_fills_copies_leaves_gradients_and_survives_being_copied():
    model = llama()
    optimizer = build_optimizer(model, AdamWConfig(adamw_kernel="triton"))
    head = model.head.weight
    optimizer.copies[head] = torch.zeros_like(head, dtype=torch.bfloat16)
    give_gradients(model, 0)
    before = head.grad.clone()
    finish_gradients(optimizer, torch.ones(()), torch.tensor(8.0), ranks=1, grad_clip=1.0)
    optimizer.step()
    assert_same(before, head.grad)
    assert_same(optimizer.copies[head], head.bfloat16())
    again = copy.deepcopy(optimizer)
    again.step()
    assert again.copies == {}


def test_where_triton_cannot_take_the_step():
    with pytest.raises(ValueError, match=r"optim.adamw_kernel: got triton, .* weights in fp32, not torch.bfloat16"):
        build_optimizer(llama().bfloat16(), AdamWConfig(adamw_kernel="triton"))
    assert type(build_optimizer(llama().bfloat16(), AdamWConfig())) is torch.optim.AdamW
    if not torch.cuda.is_available():  # Triton's interpreter is for tests
        assert type(build_optimizer(llama(), AdamWConfig())) is torch.optim.AdamW
