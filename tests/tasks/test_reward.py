"""Reward models: read at the last id, written as sequence classifiers of transformers, begun from language models."""

import dataclasses

import pytest
import torch
import transformers

from litespark.data.examples.batch import pack
from litespark.models.adapters.config import LoraAdapter, NoAdapter
from litespark.models.huggingface import folder as huggingface_folder
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.init import copy_weights, initialise
from litespark.models.llama.huggingface import export_huggingface
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.labels import with_labels
from litespark.tasks.pretrain import Pretrain
from litespark.tasks.reward import Reward, rewards
from tests.models.small import gradients, small_config, small_model
from tests.tasks.toy_examples import random_examples

TIED = {"tie_embeddings": True}
PAIRS = random_examples(3)


def packed(**settings):
    return pack([list(enumerate(PAIRS[:2])), [(2, PAIRS[2])]], 40, fill_id=0, **settings)


def of_transformers(**changes):
    """A tiny Gemma 2, whose logits of tokens have a cap, and whose head is its embedding."""
    config = transformers.Gemma2Config(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=32, final_logit_softcapping=0.01,
        initializer_range=0.2, query_pre_attn_scalar=8,
    ).to_dict()  # fmt: skip
    kept = {key: value for key, value in config.items() if key not in huggingface_folder._LEFT_OUT}
    return HuggingFaceConfig("gemma", config={**kept, "architectures": None}, **changes)


def built(spec):
    model = spec.build(resolve(OpsConfig()), "none")
    initialise(model, spec, 1)
    return model.eval()


@pytest.mark.parametrize("kind", ["native", "transformers"])
def test_a_reward_is_what_the_exported_classifier_gives_each_sequence(kind, tmp_path):
    if kind == "native":
        model = small_model(num_labels=1, **TIED).eval()
        export_huggingface(model, tmp_path / "model", eos_id=1)
    else:
        spec = of_transformers(num_labels=1)
        model = built(spec)
        assert spec.parameter_count() == sum(parameter.numel() for parameter in model.parameters())
        huggingface_folder.export_huggingface(model, tmp_path / "model", eos_id=1)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert classifier.config.num_labels == 1
    with torch.no_grad():
        got = rewards(model, packed(last_ids=True))
        sequences = [torch.from_numpy(ids).long() for example in PAIRS for ids in example.sequences]
        expected = torch.cat([classifier(ids[None]).logits[0] for ids in sequences])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_reward_model_begins_with_the_weights_of_a_language_model_and_a_head_of_its_own():
    source, model = small_model(seed=1, **TIED), small_model(seed=2, num_labels=1, **TIED)
    head = model.head.weight.detach().clone()
    copy_weights(source, model, head=False)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.embedding.weight, source.embedding.weight)
    assert model.config.parameter_count() == sum(parameter.numel() for parameter in model.parameters())
    task, batch = Reward(), packed(last_ids=True)
    task.loss(model, batch).backward()
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model).values())


def test_what_cannot_be_scored_is_refused():
    model = small_model(num_labels=1)
    with pytest.raises(ValueError, match="without their last ids"):
        Reward().loss(model, packed())
    with pytest.raises(ValueError, match="a model of 61 labels"):
        Reward().loss(small_model(), packed(last_ids=True))
    single = pack([[(0, random_examples(1, sequences=1)[0])]], 40, fill_id=0, last_ids=True)
    with pytest.raises(ValueError, match="choose data=pairs"):
        Reward().loss(model, single)


def test_the_task_gives_the_model_its_labels():
    none, config = NoAdapter(), small_config()
    assert with_labels(config, Pretrain(), none) is config
    scoring = with_labels(config, Reward(), none)
    assert scoring == dataclasses.replace(config, num_labels=1)
    assert with_labels(scoring, Reward(), none) is scoring
    with pytest.raises(ValueError, match="got a model of num_labels=1, expected a language model"):
        with_labels(scoring, Pretrain(), none)
    with pytest.raises(ValueError, match="adapter=none"):
        with_labels(config, Reward(), LoraAdapter())
    other = dataclasses.make_dataclass("Own", ["size"])(1)
    with pytest.raises(ValueError, match="a family with `num_labels`"):
        with_labels(other, Reward(), none)
