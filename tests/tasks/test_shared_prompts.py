"""A prompt that its sequences share is computed once, and everything is as if each sequence had its own."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from litespark.data.examples.batch import PADDING, pack
from litespark.data.examples.example import Example
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.init import initialise
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.flex import attention_flex, block_mask
from litespark.ops.attention.reference import attention
from litespark.ops.backend import BACKENDS, OpsConfig, load, resolve
from litespark.ops.choice import reason_against
from litespark.ops.shapes import Place
from litespark.ops.tolerance import relative_distance
from litespark.run.preflight import _why_not_shared
from litespark.tasks.reward import rewards
from litespark.tasks.sequences import layout, log_probabilities
from tests.models.small import small_model
from tests.tasks.grpo.test_policy import PROMPTS, policy
from tests.tasks.toy_examples import VOCABULARY, Examples, sequence

S = 160


def examples(sequences, count=3):
    """Of each `sequences` answers of uneven lengths to a prompt of its own, weighed by 0.5."""
    generator = np.random.default_rng(1)
    made = []
    for number in range(count):
        prompt = generator.integers(2, VOCABULARY, 9 + number)
        of = (sequence(generator, prompt, int(n), weight=0.5) for n in generator.integers(1, 8, sequences))
        made.append((number, Example(*zip(*of, strict=True))))
    return made


def model_of(kind):
    if kind != "qwen3":
        return small_model(OpsConfig(attention=kind.removesuffix("+recompute")), max_seq_len=S,
                           recompute="full" if kind.endswith("+recompute") else "none").train()  # fmt: skip
    spec = qwen3()
    model = spec.build(resolve(OpsConfig(attention="sdpa")), "none")
    initialise(model, spec, 0)
    return model


def qwen3(**more):
    config = {
        "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": S,
        "initializer_range": 0.3, "tie_word_embeddings": True,
    }  # fmt: skip
    return HuggingFaceConfig("folder", config=config | more)


def found(model, batch):
    """The logits at the places that are a sequence's own, its log-probability, and the gradients of a sum of these."""
    own = (batch.sequence_of != PADDING).flatten()
    with torch.no_grad():
        logits = model(batch.tokens, **layout(batch)).flatten(0, 1)[own]
        order = [batch.sequence_of.flatten()[own], batch.positions.flatten()[own]]
    model.zero_grad()
    sums = log_probabilities(model, batch)
    (sums * torch.linspace(1, -2, len(sums))).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    of_label = [
        logits[(order[0] == n)][-int((batch.weights[batch.sequence_of == n] > 0).sum()) :] for n in range(len(sums))
    ]
    return {"sums": sums.detach(), "logits": torch.cat(of_label), **gradients}


@pytest.mark.parametrize("sequences", [2, 5])
@pytest.mark.parametrize("kind", ["reference", "sdpa+recompute", "cpu", "qwen3"])
def test_logits_losses_and_gradients_are_those_of_sequences_with_a_prompt_each(kind, sequences):
    model, held = model_of(kind), examples(sequences)
    twice = pack([held[:2], held[2:]], S, fill_id=0)
    once = pack([held[:2], held[2:]], S, fill_id=0, share_prompts=True)
    expected, actual = found(model, twice), found(model, once)
    assert expected.keys() == actual.keys()
    apart = {name: relative_distance(actual[name], of) for name, of in expected.items()}
    assert max(apart.values()) < 1e-5, apart
    seeing_each_other = found(model, replace(once, branches=torch.zeros_like(once.branches)))
    assert min(relative_distance(seeing_each_other[name], of) for name, of in expected.items()) > 1e-3


def test_places_and_pairs_are_counted_as_they_are_computed():
    for sequences in (2, 8):
        held = examples(sequences)
        twice, once = pack([held], 400, fill_id=0), pack([held], 400, fill_id=0, share_prompts=True)
        shared = [example.shared for _, example in held]
        assert shared == [8, 9, 10]  # all of the prompt but its last id
        assert twice.token_count - once.token_count == (sequences - 1) * sum(shared)
        assert once.token_count == sum(example.places(share_prompts=True) for _, example in held)
        visible = Documents(once.documents, branches=once.branches).visible()
        assert once.attention_pairs == int(visible[:, :, : once.token_count].sum()) < twice.attention_pairs
        assert once.supervised_count == twice.supervised_count
        assert once.weight_sum == twice.weight_sum


def test_what_is_not_alike_or_has_labels_is_not_shared():
    def of(*pairs):
        ids, weights = zip(*pairs, strict=True)
        return Example(tuple(map(np.int32, ids)), tuple(map(np.float32, weights))).shared

    assert of(([1, 2, 3, 4], [0, 0, 0, 1])) == 0
    assert of(([1, 2, 3, 4], [0, 0, 0, 1]), ([1, 2, 3, 4], [0, 0, 0, 1])) == 2
    assert of(([1, 2, 3, 4], [0, 0, 0, 1]), ([1, 2, 3, 4], [0, 1, 0, 1])) == 0
    assert of(([1, 2, 3, 4], [0, 0, 0, 1]), ([1, 5, 3, 4], [0, 0, 0, 1])) == 1
    assert of(([1, 2, 3, 4], [0, 0, 0, 0]), ([1, 2, 3], [0, 0, 0])) == 1


def test_rewards_are_read_behind_each_branch():
    model, held = small_model(num_labels=1, max_seq_len=S), examples(2)
    batches = [pack([held], S, fill_id=0, last_ids=True, share_prompts=share) for share in (False, True)]
    twice, once = (rewards(model, batch) for batch in batches)
    assert relative_distance(once, twice) < 1e-5
    assert batches[1].token_count == batches[0].token_count - 27


@pytest.mark.parametrize("loss_type", ["grpo", "rloo"])
def test_the_loss_of_groups_is_that_of_completions_with_a_prompt_each(loss_type):
    results = []
    for share in (False, True):
        model = small_model(vocab_size=VOCABULARY).train()
        task = policy(loss_type=loss_type, num_generations=8, share_prompts=share)
        data = Examples(PROMPTS, PROMPTS[:3], per_row=1, micro_batch_size=4)
        batch = task.rolled(model, next(iter(data.train_dataloader())), 0, 0)
        batch.old = batch.sampled - 0.1 * (batch.labels % 4) * (batch.weights > 0)
        loss, seen = task.observe(model, batch)
        loss.backward()
        results.append({"loss": loss.detach(), "seen": seen} | {n: p.grad for n, p in model.named_parameters()})
        results.append(batch)
    expected, twice, actual, once = results
    apart = {name: relative_distance(actual[name], of) for name, of in expected.items()}
    assert max(apart.values()) < 1e-5, apart
    assert torch.equal(once.advantages, twice.advantages)
    assert once.token_count < twice.token_count
    assert len(once.tokens) < len(twice.tokens)
    assert len(once.examples) < len(twice.examples) == 32


def test_flex_attention_skips_blocks_of_other_branches_and_backends_without_branches_refuse():
    length = 700
    branches = torch.tensor([[0] * 130 + [1] * 270 + [2] * 300, [0] * 50 + [1] * 50 + [0] * 300 + [3] * 300])
    index = torch.tensor([[0] * 700, [0] * 100 + [1] * 600])
    documents, whole = Documents(index, branches=branches), Documents(index)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, length, heads, 16, generator=generator) for heads in (4, 2, 2)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        got = attention_flex(*inputs, documents)
    assert relative_distance(got, attention(*inputs, documents)) < 1e-5
    counts = [int(block_mask(length, got.device, of, None).to_dense().sum()) for of in (documents, whole)]
    assert counts[0] < counts[1]
    for name in ("varlen", "triton"):
        with pytest.raises(ValueError, match=f"ops.attention={name}: got documents with branches"):
            load("attention", name)(*(x.bfloat16() for x in inputs), documents)
    with pytest.raises(ValueError, match="a window of 5 with branches"):
        attention(*inputs, documents, 5)


@pytest.mark.parametrize(
    ("more", "attention", "message"),
    [
        ({}, "sdpa", None),
        ({}, "reference", "got ops.attention=reference with model=folder, expected sdpa or auto"),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sdpa", "with a window of 8"),
    ],
)
def test_models_that_cannot_read_branches_are_refused_before_a_run(more, attention, message):
    parts = SimpleNamespace(model=qwen3(**more), data=SimpleNamespace(seq_len=S), ops=OpsConfig(attention=attention))
    reason = _why_not_shared(parts)
    assert reason is None if message is None else message in reason


def test_attention_without_branches_is_not_chosen():
    shapes = small_model().config.step_shapes(2, 32, True)
    place = Place(torch.device("cuda"), torch.bfloat16, shapes, branches=True)
    for name, backend in BACKENDS["attention"].items():
        refused = "branches" in (reason_against("attention", name, place) or "")
        assert refused == (not backend.branches)
        assert backend.branches == (name in {"flex", "cpu", "sdpa", "reference"})
