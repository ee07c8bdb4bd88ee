"""A kept composition is the one that would be made anew."""

from __future__ import annotations

import shutil

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests import kept_compositions
from tests.run.composed import CONFIGS


def composed(folder, *overrides):
    with initialize_config_dir(str(folder), version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=["data=synthetic", *overrides]))


def test_a_kept_composition_has_the_values_of_its_own_command_line_and_files(monkeypatch, tmp_path):
    folder = shutil.copytree(CONFIGS, tmp_path / "configs")
    lines = [["optim=muon", "optim.lr=0.5"], ["optim=muon", "seed=3"], ["optim=adamw", "~callbacks.extra"]]
    for _ in range(2):
        kept = [composed(folder, *line) for line in lines]
    for name in ("_lists", "_compositions"):
        monkeypatch.setattr(kept_compositions, name, {})
    assert [composed(folder, *line) for line in lines] == kept
    assert len(kept_compositions._compositions) == 2
    composed(folder, "schedule=wsd")
    path = folder / "schedule" / "wsd.yaml"
    path.write_text(path.read_text().replace("decay: ", "decay: 0.7  # was "))
    assert composed(folder, "schedule=wsd")["schedule"]["decay"] == 0.7
