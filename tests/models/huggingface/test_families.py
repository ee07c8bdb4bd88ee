"""`litespark.apply` on each family, beside the model as it was."""

import pytest
import torch

import litespark
from litespark.models.huggingface.applied import OP_OF
from litespark.models.huggingface.table import FAMILIES as TABLE
from tests.models.huggingface.families import FAMILIES, build

# sequences of 20 tokens: whole, two documents in each, told by positions or lengths, and one with four of padding
_PADDING = torch.ones(2, 20, dtype=torch.long)
_PADDING[0, :4] = 0
_LAYOUTS = {
    "whole": {},
    "packed": {"position_ids": torch.tensor([[*range(9), *range(11)]] * 2)},
    "padded": {"attention_mask": _PADDING},
    "flattened": dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), torch.tensor([0, 9, 20, 29, 40])),
}


def _tokens() -> torch.Tensor:
    return torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))


def _step(model, layout):
    tokens = _tokens()
    # of padding, and of the token that it predicts
    labels = tokens.masked_fill(_PADDING.cumsum(1) <= 1, -100) if layout == "padded" else tokens
    return _loss_and_gradients(model, tokens, labels, **_LAYOUTS[layout])


def _loss_and_gradients(model, tokens, labels, **layout):
    model.zero_grad()
    loss = model(tokens, labels=labels, use_cache=False, **layout).loss
    loss.backward()
    gradients = {name: it.grad for name, it in model.named_parameters() if it.grad is not None}
    return {"loss": loss.detach(), **gradients}


def _distance(got, expected):
    assert got.keys() == expected.keys()
    return max(float((got[key].double() - it.double()).norm() / it.double().norm()) for key, it in expected.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_are_those_of_the_model_as_it_was(family):
    ours, theirs = build(family).train(), build(family).train()
    applied = litespark.apply(ours)
    rows = TABLE[family].rows()
    assert all(OP_OF[type(rows[module.kind])] in module.ops for module in applied.modules if module.kind in rows)
    for layout in _LAYOUTS:
        # lengths transformers reads with FlashAttention alone
        got, expected = _step(ours, layout), _step(theirs, "packed" if layout == "flattened" else layout)
        assert _distance(got, expected) < 1e-5, layout


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_within_twice_its_own_error(family):
    # rounding sends a token to another expert, so each goes to all of them
    routed = {"num_experts_per_tok": 4} if "num_experts_per_tok" in FAMILIES[family] else {}
    exact = _step(build(family, **routed).train(), "packed")
    theirs = _distance(_step(build(family, torch.bfloat16, **routed).train(), "packed"), exact)
    ours = build(family, torch.bfloat16, **routed).train()
    litespark.apply(ours)
    assert _distance(_step(ours, "packed"), exact) < 2 * theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_gives_the_same_logits_and_generates_the_same_tokens_from_padded_prompts(family):
    ours, theirs = build(family).eval(), build(family).eval()
    litespark.apply(ours)
    with torch.no_grad():
        got, expected = (model(_tokens(), use_cache=False).logits for model in (ours, theirs))
    assert _distance({"logits": got}, {"logits": expected}) < 1e-5
    options = {"attention_mask": _PADDING, "max_new_tokens": 9, "do_sample": False}
    assert ours.generate(_tokens(), **options).equal(theirs.generate(_tokens(), **options))


# one layer of sizes that take the interpreter half a second
_SMALLEST = {
    "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 16, "vocab_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
_OPS = {"rms_norm", "add_rms_norm", "rope", "swiglu", "attention", "linear_cross_entropy"}
# family -> ops that have no place in it
_WITHOUT = {
    "cohere": {"rms_norm", "add_rms_norm"},
    "starcoder2": {"rms_norm", "add_rms_norm", "swiglu"},
    "gpt_neox": {"rms_norm", "add_rms_norm", "rope", "swiglu"},
    "qwen3_moe": {"swiglu"},
    "mixtral": {"swiglu"},
}
_LAUNCH_ALIKE = {"helium", "ernie4_5", "glm", "cohere2"}  # as glm4 and cohere do


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - _LAUNCH_ALIKE))
def test_triton_kernels_give_the_same_loss_and_gradients(family):
    sizes = _SMALLEST | ({"mlp_only_layers": []} if family == "qwen3_moe" else {})
    ours, theirs = (build(family, **sizes).train() for _ in range(2))
    ops = _OPS - _WITHOUT.get(family, set())
    applied = litespark.apply(ours, dict.fromkeys(ops, "triton"))
    assert {op for module in applied.modules for op in module.ops} == ops
    tokens = _tokens()[:1, :12] % 24
    layouts = [{"position_ids": torch.tensor([[*range(4), *range(8)]])}]
    if family == "llama":
        layouts.append({"attention_mask": _PADDING[:1, :12]})
    for layout in layouts:
        labels = tokens.masked_fill(_PADDING[:1, :12].cumsum(1) <= 1, -100)
        got, expected = (_loss_and_gradients(model, tokens, labels, **layout) for model in (ours, theirs))
        assert _distance(got, expected) < 1e-5


def test_capped_scores_under_a_mask_in_memory_are_those_of_the_model_as_it_was():
    ours, theirs = build("gemma2", num_hidden_layers=1).eval(), build("gemma2", num_hidden_layers=1).eval()
    litespark.apply(ours, {"attention": "triton"})
    holes = _PADDING.clone()
    holes[1, 3:6] = 0
    with torch.no_grad():
        got, expected = (model(_tokens(), attention_mask=holes).logits for model in (ours, theirs))
    assert got[holes == 1].allclose(expected[holes == 1], atol=1e-5)


def test_outputs_of_experts_are_of_the_class_that_trainers_read():
    ours, theirs = build("mixtral").train(), build("mixtral").train()
    litespark.apply(ours)
    got, expected = (model(_tokens(), labels=_tokens(), use_cache=False) for model in (ours, theirs))
    assert type(got) is type(expected)
    assert got.aux_loss is None
    assert got.logits is None
