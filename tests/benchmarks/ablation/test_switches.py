"""Which settings become switches, which are refused, and how they are grouped and ordered."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from litespark.benchmarks.ablation.switches import switches_between
from litespark.run.config import ConfigError

BASELINE: dict[str, Any] = {
    "name": None,
    "variant": None,
    "model": {"hidden_size": 8},
    "ops": {"rope": "reference", "attention": "reference", "compile": "none"},
    "precision": {"name": "bf16"},
    "recompute": {"mode": "full"},
    "optim": {"kind": "adamw", "lr": 0.1, "fused": False},
}


def changed(**settings: Any) -> dict[str, Any]:
    """The baseline with other settings, `__` for the dots."""
    config = copy.deepcopy(BASELINE)
    for name, value in settings.items():
        group, _, leaf = name.partition("__")
        if leaf:
            config[group][leaf] = value
        else:
            config[group] = value
    return config


TARGET = changed(optim__fused=True, recompute__mode="none", ops__attention="auto", ops__rope="auto")


def described(target: dict[str, Any] = TARGET, grouped: tuple[str, ...] = (), order: tuple[str, ...] = ()) -> list:
    found = switches_between(BASELINE, target, grouped=grouped, order=order)
    return [(each.name, [f"{key.key}: {key.baseline} {key.target}" for key in each.keys]) for each in found]


def test_every_key_that_differs_is_a_switch_in_the_order_of_the_config():
    assert described() == [
        ("rope", ["ops.rope: reference auto"]),
        ("attention", ["ops.attention: reference auto"]),
        ("recompute", ["recompute.mode: full none"]),
        ("fused", ["optim.fused: false true"]),
    ]


def test_names_and_folders_are_no_switches():
    assert [name for name, _ in described(changed(name="x", variant={"label": "y"}, optim__fused=True))] == ["fused"]


def test_keys_can_be_switched_together():
    found = described(grouped=("kernels=ops.attention,ops.rope",))
    assert [name for name, _ in found] == ["kernels", "recompute", "fused"]
    assert found[0][1] == ["ops.attention: reference auto", "ops.rope: reference auto"]


def test_switches_are_taken_in_the_order_that_is_asked_for():
    found = described(grouped=("kernels=ops.attention,ops.rope",), order=("fused", "kernels", "recompute"))
    assert [name for name, _ in found] == ["fused", "kernels", "recompute"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (BASELINE, r"got the same config for --baseline and --target, expected settings in which they differ"),
        (changed(optim__lr=0.2, optim__fused=True), r"differ in what is trained \(optim\.lr: 0\.1 and 0\.2\)"),
        (
            changed(model={"hidden_size": 16}),
            r"model\.hidden_size: 8 and 16\), expected differences in ops, recompute, precision",
        ),
        (
            changed(optim={"kind": "muon", "lr": 0.1, "momentum": 0.9}),
            r"optim\.kind: 'adamw' and 'muon'.*optim\.momentum: None and 0\.9.*litespark bench to-loss",
        ),
        (changed(ops__rope="a b"), r"ops\.rope: got 'a b', expected a name, a number"),
    ],
)
def test_another_training_is_refused(target, message):
    with pytest.raises(ConfigError, match=message):
        described(target)


@pytest.mark.parametrize(
    ("grouped", "order", "message"),
    [
        (("kernels",), (), r"--switch: got 'kernels', expected NAME=KEY,KEY"),
        (("=ops.rope",), (), r"--switch: got '=ops\.rope', expected NAME="),
        (("a b=ops.rope",), (), r"--switch: got 'a b=ops\.rope'"),
        (
            ("k=ops.compile",),
            (),
            r"--switch k: got the key 'ops\.compile', expected keys in which .* differ: ops\.rope,",
        ),
        (("k=ops.rope", "l=ops.rope"), (), r"--switch: got the keys ops\.rope, ops\.rope, expected each once"),
        (("k=ops.rope", "k=ops.attention"), (), r"--switch: got the name k for two switches"),
        (("fused=ops.rope",), (), r"--switch: got the name fused for two switches"),
        ((), ("rope",), r"--order: got rope, expected each of rope,attention,recompute,fused once"),
        ((), ("rope", "rope", "attention", "recompute", "fused"), r"--order: got rope,rope"),
    ],
)
def test_groups_and_orders_that_cannot_be_are_refused(grouped, order, message):
    with pytest.raises(ConfigError, match=message):
        described(grouped=grouped, order=order)


def test_values_are_written_as_in_an_override():
    (found,) = described(changed(ops__compile=None))
    assert found == ("compile", ["ops.compile: none null"])
