"""Sweep files hold nothing but what is swept, each value composes, and the ablation has all the runs of its table."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.ops.backend import BACKENDS
from tests.run.composed import CONFIGS, config, parts

SWEEPS = sorted((CONFIGS / "sweep").glob("*.yaml"))


def swept(path: Path) -> dict[str, list[str]]:
    """The values of each key that a sweep file varies, as overrides."""
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    parsed = {key: OverridesParser.create().parse_override(f"{key}={value}") for key, value in params.items()}
    return {key: [f"{key}={each}" for each in override.sweep_string_iterator()] for key, override in parsed.items()}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_sets_only_what_is_swept_and_each_of_its_values_is_accepted(path):
    """`sweep=` is left out of the command that continues one run, so it may set nothing of the run."""
    values = yaml.safe_load(path.read_text())
    assert values.keys() == {"hydra"}
    assert values["hydra"].keys() == {"mode", "sweeper"}
    assert values["hydra"]["mode"] == "MULTIRUN"
    assert config(f"sweep={path.stem}", "experiment=llama1b").ops == config("experiment=llama1b").ops
    for overrides in swept(path).values():
        assert len(overrides) > 1
        for override in overrides:
            parts(override)


SWITCHES = {
    "norm": ("ops.rms_norm", "ops.add_rms_norm"),
    "rope": ("ops.rope",),
    "swiglu": ("ops.swiglu", "ops.swiglu_linear"),
    "attention": ("ops.attention",),
    "loss": ("ops.linear_cross_entropy",),
    "recompute": ("recompute.mode",),
    "fused": ("optim.fused",),
}
OFF = {"recompute.mode": "full", "optim.fused": False}
ON = {"recompute.mode": "none", "optim.fused": True}


def test_the_ablation_switches_every_op_and_has_the_runs_of_its_table():
    ops = {key.removeprefix("ops.") for keys in SWITCHES.values() for key in keys if key.startswith("ops.")}
    # its pieces compute with precision=fp8 only, which is no setting for any machine
    assert ops == set(BACKENDS) - {"fp8"}
    names = list(SWITCHES)
    expected = {"baseline": set(), "target": set(names)}
    expected |= {f"plus_{name}": set(names[: place + 1]) for place, name in enumerate(names[:-1])}
    expected |= {f"without_{name}": set(names) - {name} for name in names[:-1]}
    resolved = [parts(override).resolved for override in swept(CONFIGS / "sweep" / "ops_ablation.yaml")["variant"]]
    runs = {each["variant"]["label"]: each for each in resolved}
    assert len(runs) == len(resolved), "a label is used twice"
    assert runs.keys() == expected.keys()
    for label, on in expected.items():
        for name, keys in SWITCHES.items():
            for key in keys:
                group, leaf = key.split(".")
                value = ON.get(key, "auto") if name in on else OFF.get(key, "reference")
                assert runs[label][group][leaf] == value, f"{label}: {key}"
