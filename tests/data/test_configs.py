"""The data config group: every file composes, instantiates, and holds every key of its dataclass."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from litespark.config.groups import GROUPS, KIND
from litespark.data.config import SourceConfig, SyntheticConfig
from litespark.data.prepare.prepare import look_up

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


def data_config(name: str, *overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose(overrides=[f"+data={name}", "+paths.data=somewhere", "+model.vocab_size=300", *overrides])


def instantiate(node):
    settings = OmegaConf.to_container(node.data, resolve=True)
    return GROUPS["data"][settings.pop(KIND)](**settings)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_instantiates_and_states_every_setting(name):
    node = data_config(name, *(["data.source=mine"] if name in ("text", "examples") else []))
    built = instantiate(node)
    assert isinstance(built, SyntheticConfig if name == "synthetic" else SourceConfig)
    assert set(node.data) - {KIND} == {field.name for field in fields(built)}


def test_slimpajama_names_its_domains_and_its_sample_takes_the_first_files():
    whole, sample = (instantiate(data_config(name)) for name in ("slimpajama", "slimpajama_sample"))
    assert whole.domain_field == sample.domain_field == "meta.redpajama_set_name"
    assert (whole.max_files, sample.max_files) == (None, 10)
    assert replace(sample, max_files=None) == whole


def test_slimpajama_that_is_not_there_says_which_commands_provide_it():
    message = r"somewhere/slimpajama does not exist\..*litespark prepare experiment=llama3b_"
    with pytest.raises(ValueError, match=message):
        look_up(instantiate(data_config("slimpajama")))
