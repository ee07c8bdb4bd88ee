"""From configs to dataclasses: what becomes what, what may be called, and what the hash depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from litespark.models.llama.config import LlamaConfig, RopeScaling
from litespark.run.config import config_hash
from litespark.run.targets import ALLOWED_VARIABLE, ConfigError, check_targets
from litespark.training.schedule import WarmupStableDecaySchedule
from tests.run.composed import parts


@dataclass(frozen=True)
class OfSomebodyElse:
    """What a user's own package would hold."""


TARGET = f"{__name__}.OfSomebodyElse"


def test_groups_become_their_dataclasses():
    made = parts("model=llama8b", "schedule=wsd", "seed=7", "name=x", "paths.logs=elsewhere")
    assert isinstance(made.model, LlamaConfig)
    assert made.model.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)
    assert isinstance(made.schedule, WarmupStableDecaySchedule)
    assert (made.seed, made.name, made.logs) == (7, "x", Path("elsewhere"))
    assert made.optim.betas == (0.9, 0.95)
    assert made.resolved["data"]["vocab_size"] == made.model.vocab_size, "interpolations are resolved"


def test_what_cannot_be_resolved_is_named():
    with pytest.raises(ConfigError, match=r"the config cannot be resolved: .*nowhere"):
        parts("name=${nowhere}")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "pathlib.Path.unlink",
        "litespark.run.train.shutil.rmtree",
        "litespark.training.optim.AdamWConfig.__init__",
        "",
        None,
        ["litespark.training.optim.AdamWConfig"],
    ],
)
def test_only_classes_of_an_allowed_package_are_targets(target):
    with pytest.raises(ConfigError, match=r"a\.b\[1\]\._target_: got the target .*, expected "):
        check_targets({"a": {"b": [1, {"_target_": target}]}})


COPY = "${oc.create:{_target_:shutil.copy,src:FROM,dst:TO}}"


@pytest.mark.parametrize(
    "override", [r"model.name='\TEXT'", r"variant={model:{name:'\TEXT'}}", "model.name='${oc.env:HIDDEN}'"]
)
def test_no_target_hides_in_a_text_that_would_be_resolved_a_second_time(override, tmp_path, monkeypatch):
    (tmp_path / "from").write_text("")
    hidden = COPY.replace("FROM", str(tmp_path / "from")).replace("TO", str(tmp_path / "to"))
    monkeypatch.setenv("HIDDEN", hidden)
    with pytest.raises(ConfigError, match=r"model\.name: got '\$\{oc\.create:.*expected a text without"):
        parts(override.replace("TEXT", hidden))
    assert not (tmp_path / "to").exists()


def test_a_package_is_allowed_by_the_environment_and_only_it(monkeypatch):
    node = {"_target_": TARGET}
    with pytest.raises(ConfigError, match=ALLOWED_VARIABLE):
        check_targets(node)
    monkeypatch.setenv(ALLOWED_VARIABLE, "test,another.")
    with pytest.raises(ConfigError, match=r"expected a class below test\. or another\."):
        check_targets(node)
    monkeypatch.setenv(ALLOWED_VARIABLE, "tests,another.")
    check_targets(node)
    with pytest.raises(ConfigError, match=r"expected a class below tests\. or another\."):
        check_targets({"_target_": "os.system"})


def test_the_hash_depends_on_what_changes_the_result():
    plain = config_hash(parts().resolved)
    assert config_hash(parts("name=other", "paths.logs=there", "resume=x").resolved) == plain
    assert config_hash(parts("optim.lr=1e-5").resolved) != plain
    assert config_hash(parts("seed=1").resolved) != plain


def test_a_micro_batch_that_does_not_divide_is_lowered_with_one_line_everywhere(monkeypatch, caplog):
    """Two ranks take half of the batch of eight; without a launcher it fits as it stands."""
    words = ("strategy=ddp", "data.micro_batch_size=8", "trainer.global_batch_size=8")
    assert parts(*words).data.micro_batch_size == 8
    assert not caplog.messages
    for rank in ("0", "1"):
        for name, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        lowered = parts(*words)
        assert lowered.data.micro_batch_size == lowered.resolved["data"]["micro_batch_size"] == 4
    (line,) = caplog.messages
    assert line.startswith("data.micro_batch_size=8 does not divide trainer.global_batch_size=8 over 2 processes")
    assert "data.micro_batch_size=4 is used" in line
