"""The key `variant`: what it lays over, what it refuses, and what a run's folder is called after it."""

from __future__ import annotations

import shlex

import pytest
from omegaconf import OmegaConf

from litespark.launch import ALONE
from litespark.run.config import config_hash, differences
from litespark.run.continue_command import continue_command
from litespark.run.new_run import make
from litespark.run.targets import ConfigError
from litespark.run.variant import legible, with_variant
from tests.run.composed import config, parts

PLAIN_LOSS = "variant={label:plain_loss,ops:{linear_cross_entropy:reference},recompute:{mode:full}}"


def test_its_settings_win_over_all_others_and_the_resolved_config_shows_them():
    made = parts("ops.linear_cross_entropy=chunked", "recompute=none", PLAIN_LOSS)
    assert (made.ops.linear_cross_entropy, made.recompute) == ("reference", "full")
    assert made.resolved["ops"]["linear_cross_entropy"] == "reference"
    assert made.resolved["recompute"]["mode"] == "full"
    assert made.ops.attention == "auto", "what it does not name stays"


def test_only_its_label_is_left_so_that_the_run_is_the_same_as_with_plain_overrides():
    made = parts(PLAIN_LOSS)
    assert made.resolved["variant"] == {"label": "plain_loss"}
    plain = parts("ops.linear_cross_entropy=reference", "recompute.mode=full")
    assert config_hash(made.resolved) == config_hash(plain.resolved)
    assert differences(made.resolved, plain.resolved) == {}


def test_what_is_interpolated_follows_it():
    assert parts("variant={model:{vocab_size:300}}").data.vocab_size == 300


@pytest.mark.parametrize("override", ["variant=null", "variant={}"])
def test_an_empty_one_changes_nothing(override):
    assert parts(override).resolved == parts().resolved


def test_the_config_that_was_given_is_not_changed():
    given = config(PLAIN_LOSS)
    before = OmegaConf.to_yaml(given)
    with_variant(given)
    assert OmegaConf.to_yaml(given) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variant=3", r"variant: got 3, expected a mapping of settings: variant=\{"),
        ("variant={ops:{rop:reference}}", r"ops\.rop: got reference, but there is no such setting; set ops\.rope"),
        ("variant={opps:{rope:auto}}", r"opps: got .*, but there is no such setting; set ops="),
        ("variant={ops:reference}", r"ops: got 'reference', expected its settings"),
        ("variant={optim:{lr:abc}}", r"optim\.lr: got 'abc', expected a number"),
        ("variant={optim:{_target_:os.system}}", r"optim\._target_: got the target 'os\.system', expected none"),
    ],
)
def test_what_is_no_single_setting_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        parts(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (PLAIN_LOSS, "plain_loss"),
        ("variant={ops:{rope:reference},seed:3}", "ops.rope=reference_seed=3"),
        ("variant={}", "variant={}"),
        ("seed=3", "seed=3"),
    ],
)
def test_a_folder_is_named_by_the_label_or_by_each_setting(override, words):
    assert legible(override) == words


def test_the_folders_of_a_sweep_are_legible_and_distinct(tmp_path):
    made = parts(f"paths.logs={tmp_path}")
    labels = ["baseline", "plus_norm", "without_norm"]
    folders = [make(made, [f"variant={{label:{label},seed:1}}", "seed=2"]) for label in labels]
    assert [folder.name.split("_", 2)[2] for folder in folders] == [f"{label}_seed-2" for label in labels]


def test_the_command_that_continues_a_run_of_a_sweep_starts_no_sweep(tmp_path):
    """The file of the sweep would start all of its runs again."""
    words = shlex.split(continue_command(["sweep=ops_ablation", PLAIN_LOSS, "seed=2"], tmp_path, ALONE))
    assert words[-3:] == [PLAIN_LOSS, "seed=2", f"resume={tmp_path}"]
    assert not any(word.startswith("sweep=") for word in words)
