"""Reward models of `task.reward_models`: what they make of a group, and what is refused."""

import pytest
import torch

from litespark.models.init import initialise
from litespark.models.llama.huggingface import export_huggingface
from litespark.run.config import ConfigError
from litespark.run.reward_models import RewardModel, parameters_of, reward_models
from litespark.tasks.grpo.settings import GRPO
from tests.models.small import small_config, small_model

CPU = torch.device("cpu")


class Letters:
    """A tokenizer of one id a letter, between a beginning and an end."""

    begin_ids, eos_id = [1], 0

    def encode_parts(self, texts):
        return [[2 + ord(letter) % 50 for letter in text] for text in texts]


def test_every_completion_gets_the_number_that_it_has_alone():
    model = small_model(num_labels=1).eval()
    made = RewardModel(model, Letters(), longest=24, device=CPU)
    texts = ["a", "return", "b" * 11, ""]
    found = made(["of f: "] * 4, texts, [{}] * 4)  # in three rows
    for text, value in zip(texts, found, strict=True):
        ids = [1, *Letters().encode_parts([f"of f: {text}"])[0], 0]
        assert value == pytest.approx(float(model(torch.tensor([ids]))[0, -1, 0]), abs=1e-5)
    assert len({round(value, 4) for value in found}) == 4
    with pytest.raises(ValueError, match="got 25 ids, expected at most 24"):
        made(["p" * 20], ["abc"], [{}])


def test_a_folder_that_is_no_reward_model_is_refused_before_the_run(tmp_path):
    config = small_config()
    model = small_model()
    initialise(model, config, 1)
    export_huggingface(model, tmp_path / "language", tokenizer=None, eos_id=0, bos_id=None, pad_id=None)
    with pytest.raises(ConfigError, match=r"task\.reward_models\.good=.*got a language model, expected one label"):
        parameters_of({"good": str(tmp_path / "language")})
    with pytest.raises(ConfigError, match=r"task\.reward_models\.good: got .*none, expected a Hugging Face folder"):
        reward_models({"good": str(tmp_path / "none")}, 8, CPU)
    with pytest.raises(ValueError, match=r"got good without a weight, .*task\.rewards\.good=0\.5"):
        GRPO(rewards={"parses": 1.0}, reward_models={"good": "folder"})
