"""The Hugging Face baselines train what ours trains, and each is what its name says."""

import dataclasses
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from litespark.benchmarks.step import huggingface
from litespark.benchmarks.step.huggingface import HuggingFaceTraining, build_model, convert_to_fp8, copy_weights
from litespark.benchmarks.step.process import initial_weights
from litespark.benchmarks.step.stepping import step_batches
from litespark.benchmarks.step.variants import SETUPS
from litespark.data.modules import build_data_module
from litespark.launch import Ranks
from litespark.run.preflight import preflight
from litespark.training.optim import parameter_groups
from tests.benchmarks.step.tiny_steps import measured, parts
from tests.models.small import random_ids, small_config, small_model

pytest.importorskip("transformers")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("ours"), "litespark", "litespark", "model.tie_embeddings=false", steps=8)


def _assert_same_training(theirs, ours):
    assert theirs.train_loss[0] == pytest.approx(ours.train_loss[0], rel=2e-6)
    assert theirs.train_loss == pytest.approx(ours.train_loss, rel=1e-3)
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-3)
    assert (theirs.tokens, theirs.attention_pairs) == (ours.tokens, ours.attention_pairs)
    # else equal losses would say nothing
    assert ours.train_loss[-1] < 0.8 * ours.train_loss[0]


@pytest.mark.parametrize(
    ("name", "recompute"), [("standard", "full"), ("sdpa", "full"), ("compiled", "none"), ("applied", "none")]
)
def test_a_baseline_has_our_loss_at_the_first_step_and_after_several(tmp_path, ours, name, recompute):
    theirs = measured(tmp_path, name, "huggingface", "model.tie_embeddings=false", steps=8)
    _assert_same_training(theirs, ours)
    assert theirs.recompute == recompute


def _shifted_twice(self, batch, tokens, *, compiled):
    labels = {"labels": batch.labels, "num_items_in_batch": tokens}
    return self.model(batch.tokens, **labels, use_cache=False).loss


@pytest.mark.parametrize(
    ("owner", "name", "fault"),
    [(HuggingFaceTraining, "loss", _shifted_twice), (nn.utils, "clip_grad_norm_", lambda parameters, norm: None)],
    ids=["labels shifted twice", "gradients not clipped"],
)
def test_a_baseline_with_a_fault_does_not_have_our_loss(tmp_path, ours, monkeypatch, owner, name, fault):
    monkeypatch.setattr(owner, name, fault)
    theirs = measured(tmp_path, "sdpa", "huggingface", "model.tie_embeddings=false", steps=8)
    with pytest.raises(AssertionError):
        _assert_same_training(theirs, ours)


def _training(tmp_path, name="standard", recompute="none", *overrides, **changes):
    mine = parts(tmp_path, *overrides)
    machine = preflight(mine, Ranks(1, 0, 0, 1))
    data = build_data_module(mine.data, seed=mine.seed)
    setup = dataclasses.replace(SETUPS[name], **changes)
    training = HuggingFaceTraining(setup, mine, machine, initial_weights(mine, machine, data.manifest), recompute)
    return training, step_batches(mine, machine, data.train_dataloader(), 2)


@pytest.mark.parametrize(("recompute", "times"), [("none", 1), ("full", 2)])
def test_masters_and_states_are_fp32_the_compute_is_bf16_and_recompute_runs_layers_again(tmp_path, recompute, times):
    training, batches = _training(tmp_path, "standard", recompute, "precision=bf16")
    seen, calls = [], []
    training.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for layer in training.model.model.layers:
        # its end is not reached again: nothing that the backward pass reads comes from it
        layer.mlp.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    training.step(batches[0])
    assert seen == [torch.bfloat16] * 2
    assert len(calls) == times * len(batches[0].batches) * 2
    states = [value for state in training.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in [*training.model.parameters(), *states]} == {torch.float32}
    assert all(parameter.grad is None for parameter in training.model.parameters())


@pytest.mark.parametrize(("name", "fused"), [("standard", None), ("compiled", True)])
def test_the_optimizer_has_the_settings_of_the_config_and_our_groups(tmp_path, name, fused):
    training, batches = _training(
        tmp_path, name, "none", "optim.betas=[0.8,0.9]", "optim.eps=1e-6", "optim.weight_decay=0.2", compiled=False
    )
    groups = training.optimizer.param_groups
    expected = parameter_groups(training.model, 0.2)
    assert [group["params"] for group in groups] == [group["params"] for group in expected]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert {(group["betas"], group["eps"], group["fused"]) for group in groups} == {((0.8, 0.9), 1e-6, fused)}
    training.step(batches[1])
    assert {group["lr"] for group in groups} == {batches[1].learning_rate}


def test_each_setup_is_compiled_converted_and_patched_as_it_says(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(huggingface, "convert_to_fp8", lambda model: done.append("fp8"))
    liger = SimpleNamespace(apply_liger_kernel_to_llama=lambda model: done.append("liger"))
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", liger)
    monkeypatch.setattr(huggingface, "version_of", lambda package: "9")
    for name, setup in SETUPS.items():
        training, _ = _training(tmp_path, name)
        assert (training.forward is not training.model) is setup.compiled is name.startswith("compiled")
        done.append(name)
    assert done == ["standard", "sdpa", "compiled", "fp8", "compiled_fp8", "liger", "liger", "applied"]


def test_a_version_of_transformers_with_other_parameters_is_refused():
    source = small_model()
    model = build_model(source.config, "sdpa", CPU)
    model.model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"model\.extra\.bias.*too many"):
        copy_weights(source, model)


@pytest.mark.parametrize(("attention", "masked"), [(SETUPS["compiled"].attention, False), ("sdpa", True)])
def test_the_compiled_baseline_is_one_graph_whose_attention_is_causal_without_a_mask(attention, masked):
    """As which transformers' own, "sdpa", is not traced."""
    torch._dynamo.reset()
    graphs, ids = [], random_ids(2, 32)
    model = build_model(small_config(), attention, CPU).train()
    compiled = torch.compile(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    compiled(input_ids=ids, labels=ids, shift_labels=ids, num_items_in_batch=torch.full((), 64.0), use_cache=False)
    nodes = [node for graph in graphs for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
    assert [node.kwargs.get("attn_mask") is not None for node in nodes] == [masked] * len(nodes) != []
    if not masked:
        assert len(graphs) == 1
        assert [node.kwargs["is_causal"] for node in nodes] == [True] * 2


def test_fp8_is_asked_for_in_every_product_of_the_blocks_and_not_in_the_heads(monkeypatch):
    asked = {}

    def convert(module, *, config, module_filter_fn):
        assert config == "tensorwise"
        linears = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        asked.update((name, module_filter_fn(part, name)) for name, part in linears)
        return module

    config = SimpleNamespace(from_recipe_name=lambda name: name)
    fake = SimpleNamespace(Float8LinearConfig=config, convert_to_float8_training=convert)
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", fake)
    convert_to_fp8(build_model(small_config(), "sdpa", CPU))
    assert len(asked) == 2 * 7 + 1
    assert [name for name, narrow in asked.items() if not narrow] == ["lm_head"]
