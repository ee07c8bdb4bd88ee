"""The same weights give the same logits and the same gradient of every parameter as transformers' Llama, in fp32."""

import pytest
import torch

from litespark.models.llama.huggingface import huggingface_parts, load_huggingface
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.tolerance import relative_distance
from tests.models.small import SDPA
from tests.ops.assertions import assert_close
from tests.properties import HealthCheck, given, settings, st

transformers = pytest.importorskip("transformers")


def _theirs(seed=0, **changes):
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 80,
        "vocab_size": 101,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.15,
        "attn_implementation": "eager",
    }
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                # ones would hide a norm whose weight is not used
                parameter.uniform_(0.5, 1.5)
    return model


def _ours(theirs, folder, ops=SDPA):
    theirs.save_pretrained(folder)
    return load_huggingface(folder, resolve(ops))


def _rows(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(101, shape, generator=generator)
    labels = torch.randint(101, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.2] = -100
    return tokens, labels


def _their_loss(theirs, tokens, labels):
    logits = theirs(tokens, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def _assert_same_gradients(ours, theirs):
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = {}
    for name, parts in huggingface_parts(ours.config).items():
        pieces = ours.get_parameter(name).grad.split([rows for _, rows in parts])
        found |= {part: piece for (part, _), piece in zip(parts, pieces, strict=True)}
    assert_close(found, expected)


def _assert_parity(theirs, ours, tokens, labels):
    assert relative_distance(ours(tokens), theirs(tokens, use_cache=False).logits) <= 1e-5
    loss, expected = ours(tokens, labels), _their_loss(theirs, tokens, labels)
    assert relative_distance(loss, expected) <= 1e-5
    loss.backward()
    expected.backward()
    _assert_same_gradients(ours, theirs)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@st.composite
def _configs(draw):
    num_kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(2, 9))
    natural = draw(st.booleans())
    return {
        "num_key_value_heads": num_kv_heads,
        "num_attention_heads": num_kv_heads * group,
        "hidden_size": num_kv_heads * group * (head_dim if natural else draw(st.integers(3, 12))),
        "head_dim": head_dim,
        "intermediate_size": draw(st.integers(5, 90)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_theta": draw(st.sampled_from([100.0, 10000.0, 500000.0])),
        "rope_scaling": draw(st.sampled_from([None, LLAMA3])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
    }


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=_configs(),
    seed=st.integers(0, 1000),
    ops=st.sampled_from([OpsConfig(), SDPA]),
    recompute=st.sampled_from(["none", "full"]),
)
def test_logits_and_every_gradient_agree(tmp_path, changes, seed, ops, recompute):
    theirs = _theirs(seed, **changes)
    ours = _ours(theirs, tmp_path / "model", ops)
    ours.recompute = recompute
    tokens, labels = _rows(2, 40, seed=seed)
    _assert_parity(theirs, ours, tokens, labels)


def test_scaled_rotary_differs_from_plain(tmp_path):
    """Were the scaling ignored on both sides, the tests above would say nothing."""
    plain, scaled = _theirs(), _theirs(rope_scaling=LLAMA3)
    tokens, _ = _rows(1, 40)
    ours = [_ours(model, tmp_path / name) for name, model in (("plain", plain), ("scaled", scaled))]
    assert relative_distance(ours[0](tokens), ours[1](tokens)) > 1e-3


def test_greedy_generation_agrees(tmp_path):
    from litespark.models.generate import generate

    theirs = _theirs()
    ours = _ours(theirs, tmp_path / "model")
    prompts, _ = _rows(2, 6)
    expected = theirs.generate(prompts, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(generate(ours, prompts, 20), expected)
