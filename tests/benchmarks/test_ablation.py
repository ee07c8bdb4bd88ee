"""Which settings become switches, and that every combination is measured with its own, saved as it goes.

Processes are not started here: each test hands in a launch that answers as a process would.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from litespark.benchmarks import ablation
from litespark.benchmarks.ablation import bench_ablation, switches_between
from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.process import measured
from litespark.benchmarks.step.request import Request
from litespark.metrics.records.ablation import AblationRecord
from litespark.metrics.records.step import RoundRecord
from litespark.reports.ablation import from_record
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts
from tests.benchmarks.step.tiny_steps import SESSION, SETTINGS, TINY
from tests.run.composed import parts as composed_small

CONFIG: dict[str, Any] = {
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
    config = copy.deepcopy(CONFIG)
    for name, value in settings.items():
        group, _, leaf = name.partition("__")
        if leaf:
            config[group][leaf] = value
        else:
            config[group] = value
    return config


FAST = changed(optim__fused=True, recompute__mode="none", ops__attention="auto", ops__rope="auto")


def switches(target: dict[str, Any] = FAST, grouped: Sequence[str] = (), order: Sequence[str] = ()) -> list:
    found = switches_between(CONFIG, target, grouped=grouped, order=order)
    return [(each.name, [f"{key.key}: {key.baseline} {key.target}" for key in each.keys]) for each in found]


def test_every_key_that_differs_is_a_switch_in_the_order_of_the_config():
    assert switches() == [
        ("rope", ["ops.rope: reference auto"]),
        ("attention", ["ops.attention: reference auto"]),
        ("recompute", ["recompute.mode: full none"]),
        ("fused", ["optim.fused: false true"]),
    ]
    # names and folders are none; values are written as in an override
    other = changed(name="x", variant={"label": "y"}, ops__compile=None)
    assert switches(other) == [("compile", ["ops.compile: none null"])]


def test_keys_can_be_switched_together_and_in_another_order():
    grouped = ("kernels=ops.attention,ops.rope",)
    found = switches(grouped=grouped)
    assert [name for name, _ in found] == ["kernels", "recompute", "fused"]
    assert found[0][1] == ["ops.rope: reference auto", "ops.attention: reference auto"]
    ordered = ["fused", "kernels", "recompute"]
    assert [name for name, _ in switches(grouped=grouped, order=ordered)] == ordered


@pytest.mark.parametrize(
    ("target", "grouped", "order", "message"),
    [
        (CONFIG, (), (), r"got the same config for --baseline and --target, expected settings in which they differ"),
        (changed(model={"hidden_size": 16}), (), (), r"model\.hidden_size: 8 and 16\), expected differences in ops"),
        (
            changed(optim={"kind": "muon", "lr": 0.1, "momentum": 0.9}), (), (),
            r"optim\.kind: 'adamw' and 'muon'.*optim\.momentum: None and 0\.9.*litespark bench to-loss",
        ),
        (changed(ops__rope="a b"), (), (), r"ops\.rope: got 'a b', expected a name, a number"),
        (FAST, ("kernels",), (), r"--switch: got 'kernels', expected NAME=KEY,KEY"),
        (FAST, ("a b=ops.rope",), (), r"--switch: got 'a b=ops\.rope'"),
        (FAST, ("k=ops.compile",), (), r"--switch: got 'k=ops\.compile', .* differ: ops\.rope,"),
        (FAST, ("k=ops.rope", "k=ops.attention"), (), r"--switch: got the name k for two switches"),
        (FAST, ("fused=ops.rope",), (), r"--switch: got the name fused for two switches"),
        (FAST, (), ("rope",), r"--order: got rope, expected each of rope,attention,recompute,fused once"),
    ],
)  # fmt: skip
def test_another_training_and_groups_and_orders_that_cannot_be_are_refused(target, grouped, order, message):
    with pytest.raises(ConfigError, match=message):
        switches(target, grouped, order)


@pytest.mark.parametrize(("precision", "switched"), [("bf16", False), ("fp32", False), ("fp8", True), ("auto", True)])
def test_what_only_fp8_computes_with_is_no_switch_where_nothing_is_in_fp8(precision, switched):
    words = [*FP8[:2], *FP8[3:], f"precision={precision}"]
    baseline, target = (composed_small(*words, f"ops={ops}").resolved for ops in ("reference", "litespark"))
    names = {each.name for each in switches_between(baseline, target, grouped=[], order=[])}
    assert ("fp8" in names) == switched
    assert "rope" in names


# ---------------------------------------------------------------- sessions

BASELINE = ["ops=reference", "recompute=full", "optim.fused=false"]
TARGET = ["ops=reference", "ops.attention=sdpa", "recompute=none", "optim.fused=true"]
NAMES = ["baseline", "plus_attention", "plus_recompute", "target", "without_attention", "without_recompute"]
FP8 = ["data=synthetic", "trainer.accelerator=cpu", "ops=reference", "precision.fp8.simulate=true", *TINY]
composed = lru_cache(lambda *overrides: compose_parts(overrides))


@pytest.fixture(autouse=True)
def quick(monkeypatch, at_once):
    """Composing takes a third of a second, and all tests compose the same."""
    for module in (begin_module, ablation):
        monkeypatch.setattr(module, "compose_parts", lambda overrides: composed(*overrides))


class Processes:
    """Answers as processes would: 10 ms a step in the baseline, 1 ms less for each switch; breaks off when told to."""

    def __init__(self, most: int | None = None) -> None:
        self.asked: list[str] = []
        self.configs: list[Parts] = []
        self.most = most

    def __call__(self, request: Request, folder: Path, *, timeout: float) -> RoundRecord:
        if self.most is not None and len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append(request.variant)
        parts = composed(*request.overrides)
        self.configs.append(parts)
        on = (parts.ops.attention == "sdpa") + (parts.recompute == "none") + bool(parts.optim.fused)
        return request.record(
            "measured", parts.recompute, step_ms=[10.0 - on] * request.steps, tokens=128, attention_pairs=1088,
            joules_reason="no counter", train_loss=[8.0] * 3, loss=8.0,
        )  # fmt: skip


def run(output: Path, launch: Any, overrides: Sequence[str] = SESSION, **changes: Any) -> tuple[AblationRecord, Path]:
    named = {"baseline": BASELINE, "target": TARGET, "settings": SETTINGS} | changes
    command = ["litespark", "bench", "ablation"]
    return bench_ablation(overrides, command=command, output=output, say=lambda line: None, launch=launch, **named)


def test_each_combination_runs_with_the_settings_of_its_switches_in_turns_and_is_written(tmp_path):
    processes = Processes()
    record, path = run(tmp_path, processes)
    assert [each.name for each in record.switches] == ["attention", "recompute", "fused"]
    assert [each.name for each in record.variants] == NAMES
    assert processes.asked == [*NAMES, *reversed(NAMES), *NAMES]
    ran = [(parts.ops.attention, parts.recompute, parts.optim.fused) for parts in processes.configs]
    assert dict(zip(processes.asked, ran, strict=True)) == {
        "baseline": ("reference", "full", False),
        "plus_attention": ("sdpa", "full", False),
        "plus_recompute": ("sdpa", "none", False),
        "target": ("sdpa", "none", True),
        "without_attention": ("reference", "none", True),
        "without_recompute": ("sdpa", "full", True),
    }
    assert path.name.endswith("_bench-ablation_tiny_fp32.json")
    assert AblationRecord.read(path) == record
    assert record.complete
    gains = [row.gain.median for row in from_record(record).rows if row.gain]
    assert gains == pytest.approx([10 / 9, 9 / 8, 8 / 7])


def test_what_was_stopped_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Processes(most=5))
    (path,) = tmp_path.glob("*/*.json")
    # with other switches it is another measurement
    record, other = run(tmp_path, Processes(), grouped=["both=ops.attention,recompute.mode"])
    assert other != path
    assert record.names == ["both", "fused"]
    rest = Processes()
    record, continued = run(tmp_path, rest)
    assert (continued, record.complete) == (path, True)
    assert len(rest.asked) == 3 * len(NAMES) - 5


def test_baseline_and_target_may_be_experiments(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Processes(most=0), baseline=["experiment=llama3b_baseline"],
            target=["experiment=llama3b_litespark"])  # fmt: skip
    record = AblationRecord.read(next(tmp_path.glob("*/*.json")))
    assert record.names[0] == "rms_norm"
    assert record.names[-2:] == ["recompute", "fused"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": [*TARGET, "optim.lr=1"]}, r"differ in what is trained \(optim\.lr"),
        ({"baseline": [*BASELINE, "variant={ops:{attention:reference}}"]}, "got the override variant="),
    ],
)
def test_what_cannot_be_switched_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, Processes(), **changes)
    assert list(tmp_path.iterdir()) == []


def test_the_gain_of_fp8_is_measured_beside_its_loss(tmp_path):
    """Simulated on a CPU, which shows that it runs and what it does to the loss."""

    def launch(request, folder, *, timeout):
        return measured(composed(*request.overrides), request)

    record, _ = run(tmp_path, launch, FP8, baseline=["precision=fp32"], target=["precision=fp8"])
    assert record.complete
    assert [each.name for each in record.switches] == ["precision"]
    wide, narrow = (each.measured[0] for each in record.variants)
    assert wide.train_loss != narrow.train_loss
    assert narrow.loss == pytest.approx(wide.loss, rel=0.01)
    _, row = from_record(record).rows
    assert row.gain is not None
    assert "SIMULATED" in record.variants[1].about
