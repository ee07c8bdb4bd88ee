"""What an applied model launches a layer, counted on tensors without memory, and the norms that blocks make ahead."""

from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import masking_utils

import litespark
from litespark.benchmarks.traffic.counting import TrafficMode
from litespark.benchmarks.traffic.steps import as_on_gpu
from litespark.models.huggingface import layers
from litespark.models.huggingface.apply import apply_ops
from litespark.ops.backend import OpsConfig, resolve
from tests.models.huggingface.families import build

_USED = dict.fromkeys(("rms_norm", "add_rms_norm", "rope", "swiglu", "swiglu_linear", "fp8"), "triton")
_USED |= {"attention": "sdpa", "linear_cross_entropy": "chunked"}


def _config(family, depth):
    return transformers.AutoConfig.for_model(
        family, hidden_size=64, intermediate_size=96, num_hidden_layers=depth, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, vocab_size=96, max_position_embeddings=64,
    )  # fmt: skip


def _launches(family, depth, autocast):
    """Name of an op or kernel -> how often it is launched in a step of `depth` layers."""
    counted = Counter()
    with as_on_gpu(), mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None):
        model = transformers.AutoModelForCausalLM.from_config(_config(family, depth)).train()
        apply_ops(model, resolve(OpsConfig(**_USED)), _USED, probing=False)
        mode = TrafficMode(model.parameters(), tokens=32, pairs=1)
        add = mode._add
        mode._add = lambda name, counts, cast=(): (counted.update({name: counts.launches}), add(name, counts, cast))
        tokens = torch.zeros(2, 16, dtype=torch.int64)
        with mode.counting():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = model(tokens, labels=tokens, use_cache=False).loss
            loss.backward()
    return counted


@pytest.mark.parametrize(
    ("family", "autocast"), [("llama", False), ("llama", True), ("qwen3", True), ("olmo2", False), ("olmo2", True)]
)
def test_a_layer_launches_its_products_its_ops_and_nothing_else(family, autocast):
    layer = _launches(family, 2, autocast)
    layer.subtract(_launches(family, 1, autocast))
    attention = {name for name in layer if "attention" in name}
    norms, rotations = (2, 2) if family == "llama" else (4, 4)
    of_updates = 2 if family == "olmo2" else 0
    expected = {
        "aten::mm": 18, "aten::addmm_": 3, "swiglu_forward_kernel": 1, "swiglu_backward_kernel": 1,
        "rms_norm_forward_kernel": norms - of_updates, "rms_norm_backward_kernel": norms - of_updates,
        "rope_kernel": rotations,
        # the gradient of a norm's weight, from its parts
        "aten::sum": norms,
    }  # fmt: skip
    if of_updates:
        names = ("rms_norm_of_update_forward_kernel", "rms_norm_of_update_backward_kernel")
        expected |= dict.fromkeys(names, of_updates)
    if autocast:
        expected["aten::_to_copy"] = 7  # of each weight
    elif of_updates:
        expected["aten::add"] = 2  # gradients of the sums, which products read as they are
    got = {name: count for name, count in layer.items() if count and name not in attention}
    assert got == expected


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_blocks_make_the_norm_that_follows_which_is_not_made_again(family):
    model, called = build(family), Counter()
    litespark.apply(model, {"attention": "reference"})
    tokens = torch.arange(10)[None]
    expected = model(tokens).logits
    others = [layer.input_layernorm for layer in model.model.layers[1:]]
    for norm in (*others, model.model.norm):
        ops = norm.litespark.ops
        without = replace(ops, rms_norm=lambda *_: called.update(again=1))
        norm.litespark = replace(norm.litespark, ops=without)
    assert model(tokens).logits.equal(expected)
    assert not called


def test_a_sum_that_blocks_hand_over_as_products_read_it_is_not_used_where_it_was_changed_on_the_way():
    model = build("olmo2")
    litespark.apply(model, {"attention": "reference", "add_rms_norm": "triton"})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x, update = torch.randn(4, 48), torch.randn(4, 48).bfloat16()
        added = layers._sum_and_norm(model.model.layers[0], x, update)
        stream, read = layers._stream_and_norm(None, added)
        assert stream is added
        assert read.equal(added.bfloat16())
        added = layers._sum_and_norm(model.model.layers[0], x, update)
        assert added.litespark_normed[2].dtype == torch.bfloat16
        assert layers._stream_and_norm(None, added.add_(1.0))[1] is added


def test_a_norm_is_made_again_where_its_input_was_changed_on_the_way():
    ours, theirs = build("llama"), build("llama")
    litespark.apply(ours)
    for model in (ours, theirs):
        model.model.layers[0].register_forward_hook(lambda module, inputs, output: output.mul_(0.5))
        model.model.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.1,))
        model.model.layers[1].register_forward_hook(lambda module, inputs, output: output + 0.1)
        model.train()
    tokens, losses = torch.arange(20)[None], []
    for model in (ours, theirs):
        losses.append(model(tokens, labels=tokens).loss)
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert float((got.grad - expected.grad).norm()) <= 1e-4 * float(expected.grad.norm())
    block, norm = ours.model.layers[1], ours.model.layers[2].input_layernorm
    for hook in ours.model.layers[1]._forward_hooks.copy():
        del ours.model.layers[1]._forward_hooks[hook]
    with torch.no_grad():
        added = layers._sum_and_norm(block, torch.randn(4, 48), torch.randn(4, 48))
        assert hasattr(added, "litespark_normed")
        assert norm(added.mul_(0.5).add_(1.0)).equal(norm(added.clone()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_blocks_keep_one_tensor_and_make_their_own_norms(reentrant):
    model = build("llama").train()
    litespark.apply(model)
    tokens = torch.arange(20)[None]
    model(tokens, labels=tokens).loss.backward()
    expected = {name: part.grad for name, part in model.named_parameters()}
    model.zero_grad()
    at_hand = layers._at_hand
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    made = []
    with mock.patch.object(layers, "_at_hand", side_effect=lambda *of: made.append(at_hand(*of)) or made[-1]):
        model(tokens, labels=tokens).loss.backward()
    assert made
    assert not any(made)
    for name, part in model.named_parameters():
        assert torch.allclose(part.grad, expected[name], rtol=1e-4, atol=1e-7), name


class _Recomputing(nn.Module):
    """A wrapper of somebody else around a block."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x, **options):
        return checkpoint(lambda x: self.block(x, **options), x, use_reentrant=True)


def test_a_norm_that_a_wrapped_block_made_without_gradients_is_made_again():
    model = build("llama").train()
    tokens = torch.arange(20)[None]
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    expected = [part.grad for part in model.parameters()]
    model.zero_grad()
    litespark.apply(model)
    for index, block in enumerate(model.model.layers):
        model.model.layers[index] = _Recomputing(block)
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    for (name, part), gradient in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(part.grad, gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton"])
def test_an_offset_is_added_to_weights_of_a_norm_in_fp32(backend):
    model, exact = build("gemma3_text", torch.bfloat16), build("gemma3_text", torch.float64)
    x = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    norms = [part.model.layers[0].input_layernorm for part in (model, exact)]
    with torch.no_grad():
        norms[1].weight.copy_(norms[0].weight)
        expected = norms[1](x.double())
        theirs = (norms[0](x) - expected).norm()
        litespark.apply(model, {"attention": "reference", "rms_norm": backend})
        assert (norms[0](x) - expected).norm() < 1.02 * theirs
