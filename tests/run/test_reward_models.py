"""Reward models of `task.reward_models`: what they make of a group, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from litespark.models.init import initialise
from litespark.models.llama.huggingface import export_huggingface
from litespark.run.config import ConfigError
from litespark.run.reward_models import (
    RewardModel,
    about_reward_models,
    check_reward_models,
    parameters_of,
    reward_models,
)
from litespark.tasks.grpo.rewards import Group
from litespark.tasks.grpo.settings import GRPO
from tests.models.small import small_config, small_model

CPU = torch.device("cpu")
EOS = 7


class Letters:
    """A tokenizer of one id a letter, between a beginning and an end."""

    begin_ids, eos_id, vocab_size = (1,), 0, 61

    def encode_parts(self, texts):
        return [[2 + ord(letter) % 50 for letter in text] for text in texts]


def test_every_completion_gets_the_number_that_it_has_alone():
    model = small_model(num_labels=1).eval()
    texts, ids = ["a", "return", "b" * 11, ""], [[9, EOS], [9, 8, 3], [5] * 12, [2]]
    group = Group("of f: ", texts, {}, [4, 5], ids, [True, False, False, True])
    anew = [[1, *Letters().encode_parts([f"of f: {text}"])[0], 0] for text in texts]
    shared = [[4, 5, 9, EOS], [4, 5, 9, 8, 3, EOS], [4, 5, *[5] * 12, EOS], [4, 5, 2]]
    for tokenizer, expected in ((Letters(), anew), (None, shared)):
        made = RewardModel(model, tokenizer, EOS, longest=24, device=CPU)
        found = made(group)  # in several packed sequences
        for sequence, value in zip(expected, found, strict=True):
            assert value == pytest.approx(float(model(torch.tensor([sequence]))[0, -1, 0]), abs=1e-5)
        assert len({round(value, 4) for value in found}) == 4
    with pytest.raises(ValueError, match="got 25 ids, expected at most 24"):
        RewardModel(model, Letters(), EOS, 24, CPU)(Group("p" * 20, ["abc"], {}))


def exported(folder: Path, *, seed=1, **sizes) -> str:
    model = small_model(**sizes)
    initialise(model, model.config, seed)
    return str(export_huggingface(model, folder, tokenizer=None, eos_id=0, bos_id=None, pad_id=None))


def test_a_folder_that_is_no_reward_model_is_refused_before_the_run(tmp_path):
    language = exported(tmp_path / "language")
    with pytest.raises(ConfigError, match=r"task\.reward_models\.good=.*got a language model, expected one label"):
        parameters_of({"good": language})
    with pytest.raises(ConfigError, match=r"task\.reward_models\.good: got .*none, expected a Hugging Face folder"):
        parameters_of({"good": str(tmp_path / "none")})
    several = exported(tmp_path / "several", num_labels=3)
    with pytest.raises(ConfigError, match="got a classifier of 3 labels, expected one"):
        parameters_of({"good": several})
    with pytest.raises(ValueError, match=r"got good without a weight, .*task\.rewards\.good=0\.5"):
        GRPO(rewards={"parses": 1.0}, reward_models={"good": "folder"})


def test_one_without_a_tokenizer_reads_the_ids_of_the_policy_if_it_has_as_many_and_as_long(tmp_path, caplog):
    reward = {"good": exported(tmp_path / "reward", num_labels=1)}
    config = small_config()
    made = reward_models(reward, config.max_seq_len, tokenizer=Letters(), device=CPU)["good"]
    assert made.tokenizer is None
    group = Group("", ["", ""], {}, [4, 5], [[9, EOS], [9, 8, 3, 6]], [True, False])
    ours = small_model(num_labels=1).eval()
    initialise(ours, ours.config, 1)
    alone = RewardModel(ours, None, 0, 24, CPU)
    assert made(group) == pytest.approx(alone(group), abs=1e-5)
    assert "has no tokenizer to compare with that of the policy" in caplog.text
    with pytest.raises(ConfigError, match=rf"reads {config.max_seq_len} ids, and .* may have {config.max_seq_len + 1}"):
        reward_models(reward, config.max_seq_len + 1, tokenizer=Letters(), device=CPU)
    more = SimpleNamespace(vocab_size=config.vocab_size + 1)
    with pytest.raises(ConfigError, match=rf"without a tokenizer, of {config.vocab_size} ids, expected"):
        reward_models(reward, 8, tokenizer=more, device=CPU)


def test_a_resume_with_another_reward_model_is_refused(tmp_path):
    folders = [exported(tmp_path / str(seed), seed=seed, num_labels=1) for seed in (1, 2)]
    checkpoint = SimpleNamespace(folder="step-2", about={"reward_models": about_reward_models({"good": folders[0]})})
    for folder in folders:
        parts = SimpleNamespace(task=GRPO(rewards={"good": 1.0}, reward_models={"good": folder}))
        if folder == folders[0]:
            check_reward_models(parts, checkpoint)
        else:
            with pytest.raises(ConfigError, match=r"got other weights than those that step-2 learnt from"):
                check_reward_models(parts, checkpoint)
