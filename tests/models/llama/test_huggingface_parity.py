"""The same weights give the same logits and the same gradient of every parameter as transformers' Llama, in fp32."""

import pytest
import torch

from litespark.models.llama.huggingface import huggingface_parts, load_huggingface
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.tolerance import relative_distance
from tests.models.small import SDPA, give_biases, random_ids
from tests.ops.assertions import assert_close
from tests.properties import HealthCheck, given, settings, st

transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0}
LINEAR, DYNAMIC = ({"rope_type": kind, "factor": 4.0} for kind in ("linear", "dynamic"))


@st.composite
def _configs(draw):
    num_kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    head_dim = 2 * draw(st.integers(2, 9))
    natural = draw(st.booleans())
    return transformers.LlamaConfig(
        num_key_value_heads=num_kv_heads,
        num_attention_heads=num_kv_heads * group,
        hidden_size=num_kv_heads * group * (head_dim if natural else draw(st.integers(3, 12))),
        head_dim=head_dim,
        intermediate_size=draw(st.integers(5, 90)),
        num_hidden_layers=draw(st.integers(1, 3)),
        tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        rope_theta=draw(st.sampled_from([100.0, 10000.0, 500000.0])),
        rope_scaling=draw(st.sampled_from([None, LLAMA3, YARN, LINEAR, DYNAMIC])),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        vocab_size=101,
        max_position_embeddings=64,
        initializer_range=0.15,
        attn_implementation="eager",
    )


def _theirs(config, seed):
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)  # ones would hide a norm whose weight is not used
    give_biases(model)
    return model


def _as_theirs(ours):
    """Its gradients by the names of transformers."""
    found = {}
    for name, parts in huggingface_parts(ours.config).items():
        pieces = ours.get_parameter(name).grad.split([rows for _, rows in parts])
        found |= {part: piece for (part, _), piece in zip(parts, pieces, strict=True)}
    return found


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    config=_configs(),
    seed=st.integers(0, 1000),
    ops=st.sampled_from([OpsConfig(), SDPA]),
    recompute=st.sampled_from(["none", "swiglu", "full"]),
)
def test_logits_and_every_gradient_agree(tmp_path, config, seed, ops, recompute):
    theirs = _theirs(config, seed)
    theirs.save_pretrained(tmp_path / "model")
    ours = load_huggingface(tmp_path / "model", resolve(ops))
    ours.recompute = recompute
    for block in ours.blocks:
        block.mlp.recompute = recompute
    tokens, labels = (random_ids(2, 40, seed=seed + each, vocab_size=101) for each in (0, 1))
    labels[:, ::5] = -100
    logits = theirs(tokens, use_cache=False).logits
    assert relative_distance(ours(tokens), logits) <= 1e-5
    loss = ours(tokens, labels)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert relative_distance(loss, expected) <= 1e-5
    loss.backward()
    expected.backward()
    assert_close(_as_theirs(ours), {name: parameter.grad for name, parameter in theirs.named_parameters()})
