"""The halves of a block as one node each: the bits of the ops one by one, which run where somebody looks."""

import pytest
import torch

from litespark.models.llama.model import Context
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.linear.kept import accumulate_in_place, keep_casts
from litespark.ops.tolerance import relative_distance
from tests.models.small import BIASES, give_biases, gradients, random_ids, small_config, small_model

pytest.importorskip("triton")

TRITON = dict.fromkeys(("rms_norm", "add_rms_norm", "rope", "swiglu", "swiglu_linear"), "triton")
SIZES = {"hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 24}
DOCUMENTS = {"documents": torch.tensor([[0, 0, 1]], dtype=torch.int32)}


@pytest.fixture(autouse=True)
def _on_the_cpu():
    if torch.cuda.is_available():
        pytest.skip("the products of the halves and of the layers are compared bit by bit on a CPU")


def model(recompute="none", **changes):
    made = small_model(OpsConfig(**TRITON), recompute, **SIZES, **changes)
    give_biases(made)
    keep_casts(made)
    accumulate_in_place(made)
    return made


def one_by_one(recompute="none", **changes):
    """The same with a hook on each MLP, and the names of those called."""
    made, called = model(recompute, **changes), []
    for name, block in made.blocks.named_children():
        block.mlp.register_forward_hook(lambda *_, name=name: called.append(name))
    return made, called


def steps(model, *, autocast=True, residual=None, freeze=(), **extra):
    """The losses and gradients of two micro-batches."""
    model.residual_dtype = residual
    for name in freeze:
        model.get_parameter(name).requires_grad_(False)
    losses = []
    for seed in (0, 2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
            loss = model(random_ids(1, 3, seed=seed), random_ids(1, 3, seed=seed + 1), **extra)
        loss.backward()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses)} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("recompute", ["none", "swiglu", "full"])
def test_losses_and_gradients_are_those_of_the_ops_one_by_one_and_hooks_are_called(recompute):
    reference, called = one_by_one(recompute)
    expected = steps(reference, **DOCUMENTS)
    assert {*called} == {"0", "1"}
    assert_same(steps(model(recompute), **DOCUMENTS), expected)


def test_a_stream_in_bf16_is_rounded_once_less_where_it_begins():
    found, expected = (steps(made, residual=torch.bfloat16) for made in (model(), one_by_one()[0]))
    first = "embedding.weight"
    assert relative_distance(found.pop(first), expected.pop(first)) < 2e-2
    assert_same(found, expected)


def test_without_autocast_all_is_in_fp32():
    assert_same(steps(model(), autocast=False), steps(one_by_one()[0], autocast=False))


@pytest.mark.parametrize("recompute", ["none", "swiglu"])
def test_biases_are_learnt_and_what_is_frozen_has_no_gradients_and_changes_those_of_no_other(recompute):
    frozen = "embedding", "blocks.0.mlp.down", "blocks.0.attention_norm", "blocks.1.attention.qkv"
    freeze = [*(f"{name}.weight" for name in frozen), "blocks.0.mlp.gate_up.bias", "blocks.1.attention.qkv.bias"]
    found = steps(model(recompute, **BIASES), freeze=freeze)
    expected = steps(one_by_one(recompute, **BIASES)[0], freeze=freeze)
    assert not found.keys() & {*freeze}
    assert sum(name.endswith(".bias") for name in found) == 6
    if recompute == "none":
        assert_same(found, expected)
    for name, value in expected.items():  # one by one, the bias of `down` is added to a product that was rounded
        assert relative_distance(found[name], value) < 2e-2, name


def test_a_layer_has_two_nodes_beside_those_of_attention():
    without = resolve(OpsConfig(**TRITON)).attention
    shapes = [(1, 3, heads, 8) for heads in (2, 1, 1)]
    attention = nodes(without(*(torch.zeros(shape, requires_grad=True) for shape in shapes)))
    deep, shallow = (nodes(model(num_layers=layers)(random_ids(1, 3), random_ids(1, 3, seed=1))) for layers in (3, 2))
    assert deep - shallow <= attention + 2


def nodes(result):
    """How many nodes of autograd are behind a tensor, without those at weights."""
    seen, waiting = set(), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return sum(node.name() != "torch::autograd::AccumulateGrad" for node in seen)


def test_what_the_ops_refuse_is_refused():
    with pytest.raises(ValueError, match=r"expected fp32, bf16 or fp16"):
        model().double()(random_ids(1, 3), random_ids(1, 3, seed=1))
    made = model()
    tables = [table.bfloat16() for table in made.rotary(torch.arange(3).unsqueeze(0))]
    with pytest.raises(ValueError, match="lower precision confuses positions"):
        made.blocks[0](torch.zeros(1, 3, 16), None, Context(*tables))


def test_ops_of_other_backends_and_parts_of_other_kinds_go_one_by_one():
    for op, unused in {"rope": (), "add_rms_norm": (), "swiglu": ("swiglu",)}.items():
        halves = resolve(OpsConfig(**TRITON | {op: "reference"})).halves
        assert "swiglu" not in halves
        assert ("swiglu_linear" in halves) == bool(unused)
    changed = model()
    changed.blocks[0].mlp.down = torch.nn.Linear(24, 16)  # which casts as autocast does
    with torch.no_grad():
        changed.blocks[0].mlp.down.bias.fill_(7.0)
    loss = changed(random_ids(1, 3), random_ids(1, 3, seed=1))
    loss.backward()
    assert gradients(changed)["blocks.0.mlp.down.bias"].abs().sum() > 0
    assert small_config(**SIZES).num_layers == len(changed.blocks)
