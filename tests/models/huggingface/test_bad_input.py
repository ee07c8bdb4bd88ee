"""What `litespark.apply` cannot do: each refused with what was expected, and the model as it was; or left alone."""

import dataclasses

import pytest
import torch
import transformers
from torch import nn
from transformers.models.llama import modeling_llama

import litespark
from litespark.models.huggingface import apply as module
from litespark.models.huggingface.layers import is_replaced
from litespark.models.huggingface.table import FAMILIES, Attention
from litespark.ops.backend import BACKENDS, Backend
from litespark.ops.swiglu.reference import swiglu
from tests.models.huggingface.families import build

_TOKENS = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))
_SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

_EXPERTS = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "first_k_dense_replace": 2, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    },
}  # fmt: skip
_HEADS = ("num_attention_heads", "num_key_value_heads")


def _state(model):
    own = [(type(part), sorted(vars(part))) for part in model.modules()]
    return own, getattr(getattr(model, "config", None), "_attn_implementation", None)


def _refused(model, match, **options):
    before = _state(model)
    with pytest.raises(ValueError, match=match):
        litespark.apply(model, **options)
    assert _state(model) == before


def _on_meta():
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(build("llama").config)


def _applied():
    model = build("llama")
    litespark.apply(model)
    return model


def _model(family, leave_out=(), **other):
    sizes = {name: size for name, size in {**_SIZES, **other}.items() if name not in leave_out}
    config = transformers.AutoConfig.for_model(family, **sizes)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


_T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
_REFUSED = {
    "meta": (_on_meta, "on meta, whose layers cannot be tried"),
    "twice": (_applied, "was applied to before; litespark.remove"),
    "encoder-decoder": (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)), "encoder-deco"),
    "no head": (lambda: build("llama").model, "got LlamaModel, expected a causal LM"),
    "no transformers": (lambda: nn.Linear(2, 2), "got a Linear, expected a causal LM of transformers"),
    "wrapped": (lambda: torch.compile(build("llama"), backend="eager"), "apply before torch.compile, DDP"),
    "attention of its own": (lambda: _model("bloom"), "nothing could be replaced.*(?s:.*)AttentionInterface"),
}  # fmt: skip


@pytest.mark.parametrize("case", _REFUSED)
def test_a_model_that_it_cannot_be_done_to_is_refused_and_as_it_was(case):
    make, match = _REFUSED[case]
    _refused(make(), match)


@pytest.mark.parametrize(
    "family, ops, match",
    [
        ("llama", "sdpa", 'expected "litespark", or op -> backend'),
        ("llama", None, "got ops=None"),
        ("llama", {"atention": "sdpa"}, "got ops .'atention'., expected some of rms_norm"),
        ("llama", {"attention": "fast"}, r"ops\[.attention.\]: got 'fast', expected one of"),
        ("llama", {"attention": "varlen"}, r"ops\[.attention.\]: got varlen, which cannot run here"),
        ("llama", {"swiglu_linear": "triton"}, "no layer of this model came to run with"),
        ("starcoder2", {"rms_norm": "torch"}, "rms_norm.*no layer of this model(?s:.*)LayerNorm: not in the table"),
        ("llama", dict.fromkeys([*module.OP_OF.values(), "attention"], "reference"), "every op, .* nothing is applied"),
    ],
)  # fmt: skip
def test_ops_that_cannot_be_are_refused(family, ops, match):
    _refused(build(family), match, ops=ops)


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"attention": "sdpa"}, r"got attention='sdpa', expected ops=\{\"attention\": \"sdpa\"\}$"),
        ({"lenght": 9}, "got lenght=9, expected ops, sequences, length"),
    ],
)
def test_an_argument_that_there_is_not_is_refused_with_what_to_write(arguments, match):
    with pytest.raises(TypeError, match=match):
        litespark.apply(build("llama"), **arguments)


def test_a_failed_verification_is_told_with_what_can_be_pasted(monkeypatch):
    monkeypatch.setitem(BACKENDS, "swiglu", {"halved": Backend(f"{__name__}:_halved"), **BACKENDS["swiglu"]})
    match = r'ops\["swiglu"\]: got halved(?s:.*)Set ops=\{"swiglu": "reference"\}\.'
    _refused(build("llama"), match, ops={"swiglu": "halved"}, verify=True, length=16)


def _halved(gate_up, activation="silu"):
    return swiglu(gate_up, activation) / 2


def test_a_name_in_place_of_a_dtype_is_refused():
    _refused(build("llama"), "got autocast='bf16', expected a dtype, torch.bfloat16", autocast="bf16")


def test_attention_that_drops_weights_in_training_is_said_to_be_left_alone_there():
    reasons = {it.name: it.reason for it in litespark.apply(build("llama", attention_dropout=0.1)).modules}
    assert reasons["model.layers.0.self_attn"] == "attention: it drops weights while it trains"


def test_removing_what_was_not_applied_is_refused():
    with pytest.raises(ValueError, match="was not applied to"):
        litespark.remove(build("llama"))


def test_a_model_that_was_moved_to_another_device_is_refused():
    model = _applied().to("meta")
    with pytest.raises(ValueError, match="got a model on meta whose ops were chosen for cpu"):
        model(_TOKENS.to("meta"))


class _Doubled(modeling_llama.LlamaRMSNorm):
    def forward(self, hidden_states):
        return 2 * super().forward(hidden_states)


class _Named(modeling_llama.LlamaRMSNorm):
    """Inherits its forward."""


def test_a_subclass_is_left_alone_where_it_has_a_forward_of_its_own():
    ours, theirs = build("llama").eval(), build("llama").eval()
    for model in (ours, theirs):
        model.model.norm.__class__ = _Doubled
        model.model.layers[0].input_layernorm.__class__ = _Named
    done = {it.name: it for it in litespark.apply(ours).modules}
    assert done["model.norm"].reason == "rms_norm: it is a subclass of LlamaRMSNorm with a forward of its own"
    assert done["model.norm"].ops == {}
    assert "rms_norm" in done["model.layers.0.input_layernorm"].ops
    torch.testing.assert_close(ours(_TOKENS).logits, theirs(_TOKENS).logits, rtol=1e-4, atol=1e-4)
    litespark.remove(ours)
    assert _state(ours) == _state(theirs)


def test_a_forward_that_somebody_put_into_an_instance_stays():
    model = build("llama")
    model.model.norm.forward = lambda hidden_states: hidden_states
    reasons = {it.name: it.reason for it in litespark.apply(model).modules}
    assert reasons["model.norm"] == "rms_norm: its forward was replaced by somebody else"


class _Quantised(nn.Linear):
    """Stands for one: what it holds is not what it multiplies with."""

    def forward(self, x):
        return nn.functional.linear(x, 2 * self.weight, self.bias)


def test_quantised_products_are_called():
    ours, theirs = build("llama").eval(), build("llama").eval()
    for model in (ours, theirs):
        for part in model.modules():
            if type(part) is nn.Linear:
                part.__class__ = _Quantised
    ran = {op for it in litespark.apply(ours).modules for op in it.ops}
    assert ran == {"rms_norm", "add_rms_norm", "rope", "swiglu", "attention", "linear_cross_entropy"}
    for skip in (True, False):
        got, expected = ours(_TOKENS, labels=_TOKENS, skip_logits=skip).loss, theirs(_TOKENS, labels=_TOKENS).loss
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "family, ran, reason",
    [
        # norms whose weight is the distance from one are told from others by what they compute
        ("gemma", {"rms_norm", "attention"}, ""),
        ("deepseek_v3", {"rms_norm"}, "attention: its keys and values have different sizes"),
        ("nanochat", {"attention"}, "it has no weight"),
        ("phi", {"attention"}, "not in the table"),
        ("gpt_oss", {"rms_norm"}, "has attention sinks, which our attention has not"),
        # computes with the mask by itself
        ("doge", {"rms_norm"}, "attention: AttributeError"),
        # whose config has no heads
        ("mamba", {"rms_norm"}, "not in the table"),
    ],
)
def test_of_a_family_that_is_not_in_the_table_runs_what_computes_the_same(family, ran, reason):
    model = _model(family, leave_out=_HEADS if family == "mamba" else (), **_EXPERTS.get(family, {}))
    before, expected = _state(model), model.eval()(_TOKENS).logits
    done = litespark.apply(model).modules
    assert {op for it in done for op in it.ops} == ran
    assert any(reason in it.reason for it in done)
    torch.testing.assert_close(model(_TOKENS).logits, expected, rtol=1e-4, atol=1e-5)
    litespark.remove(model)
    assert _state(model) == before


def test_attention_that_is_left_to_pytorch_sees_all_that_is_in_the_cache():
    model = _model("deepseek_v3", **_EXPERTS["deepseek_v3"]).eval()
    litespark.apply(model)
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        parts = [model(part, cache=cache, use_cache=True).logits for part in _TOKENS.split(8, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(_TOKENS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ops", ["litespark", {"attention": "reference"}])
def test_a_later_layer_that_differs_from_the_first_of_its_kind_is_noticed(ops, monkeypatch):
    wrong = dataclasses.replace(FAMILIES["smollm3"], attention=Attention())
    monkeypatch.setitem(FAMILIES, "smollm3", wrong)  # whose second layer does not rotate
    _refused(build("smollm3"), "got another model than before: it is .* away", ops=ops)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.001 * gradient


def test_verifying_finds_a_wrong_gradient_in_the_whole_model_and_names_it(monkeypatch):
    model = build("llama")
    litespark.apply(model, verify=True, length=16)
    litespark.remove(model)

    decide = module.decide

    def planted(*arguments, **named):
        ops, choices = decide(*arguments, **named)
        right = ops.swiglu
        return dataclasses.replace(ops, swiglu=lambda x, **options: _WrongGradient.apply(right(x, **options))), choices

    monkeypatch.setattr(module, "decide", planted)
    _refused(model, r"apart, model\.layers\.\d\.\S+ by .*e-0\d with at most 1e-04 allowed", verify=True, length=16)
    assert not any(map(is_replaced, model.modules()))
