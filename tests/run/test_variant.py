"""The key `variant`: what it lays over, what it refuses, and what a run's folder is called after it."""

from __future__ import annotations

import shlex

import pytest

from litespark.launch import ALONE
from litespark.run.config import config_hash
from litespark.run.continue_command import continue_command
from litespark.run.targets import ConfigError
from litespark.run.variant import legible
from tests.run.composed import parts

PLAIN_LOSS = "variant={label:plain_loss,ops:{linear_cross_entropy:reference},recompute:{mode:full}}"


def test_its_settings_win_over_all_others_and_the_resolved_config_shows_them():
    made = parts("ops.linear_cross_entropy=chunked", "recompute=none", PLAIN_LOSS)
    assert (made.ops.linear_cross_entropy, made.recompute) == ("reference", "full")
    assert made.resolved["ops"]["linear_cross_entropy"] == "reference"
    assert made.resolved["recompute"]["mode"] == "full"
    assert made.ops.attention == "auto", "what it does not name stays"
    assert made.resolved["variant"] == {"label": "plain_loss"}
    plain = parts("ops.linear_cross_entropy=reference", "recompute.mode=full")
    assert config_hash(made.resolved) == config_hash(plain.resolved)
    assert parts("variant={model:{vocab_size:300}}").data.vocab_size == 300, "what is interpolated follows it"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("variant=3", r"variant: got 3, expected a mapping of settings: variant=\{"),
        ("variant={ops:{rop:reference}}", r"ops\.rop: got reference, but there is no such setting; set ops\.rope"),
        ("variant={optim:{_target_:os.system}}", r"optim\._target_: got the target 'os\.system', expected none"),
    ],
)
def test_what_is_no_single_setting_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        parts(override)


def test_a_folder_is_named_by_the_label_or_by_each_setting():
    assert legible(PLAIN_LOSS) == "plain_loss"
    assert legible("variant={ops:{rope:reference},seed:3}") == "ops.rope=reference_seed=3"
    assert [legible(word) for word in ("variant={}", "seed=3")] == ["variant={}", "seed=3"]


def test_the_command_that_continues_a_run_of_a_sweep_starts_no_sweep(tmp_path):
    """The file of the sweep would start all of its runs again."""
    words = shlex.split(continue_command(["sweep=ops_ablation", PLAIN_LOSS, "seed=2"], tmp_path, ALONE))
    assert words[-3:] == [PLAIN_LOSS, "seed=2", f"resume={tmp_path}"]
    assert not any(word.startswith("sweep=") for word in words)
