"""Which settings become switches, and that every combination is measured with its own; no process is started."""

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
from litespark.run.config import ConfigError
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


def changed(**groups: Any) -> dict[str, Any]:
    """The baseline with other settings of its groups."""
    return CONFIG | {name: (CONFIG[name] or {}) | new if isinstance(new, dict) else new for name, new in groups.items()}


FAST = changed(optim={"fused": True}, recompute={"mode": "none"}, ops={"attention": "auto", "rope": "auto"})


def switches(target: dict[str, Any] = FAST, grouped: Sequence[str] = (), order: Sequence[str] = ()) -> list:
    found = switches_between(CONFIG, target, grouped=grouped, order=order)
    return [(each.name, [f"{key.key}: {key.baseline} {key.target}" for key in each.keys]) for each in found]


def test_every_key_that_differs_is_a_switch_in_the_order_of_the_config_or_as_it_is_told():
    rope, attention = "ops.rope: reference auto", "ops.attention: reference auto"
    others = [("recompute", ["recompute.mode: full none"]), ("fused", ["optim.fused: false true"])]
    assert switches() == [("rope", [rope]), ("attention", [attention]), *others]
    grouped = ("kernels=ops.attention,ops.rope",)
    kernels = ("kernels", [rope, attention])
    assert switches(grouped=grouped) == [kernels, *others]
    assert switches(grouped=grouped, order=["fused", "kernels", "recompute"]) == [others[1], kernels, others[0]]
    # names and folders are none; values are written as in an override
    other = changed(name="x", variant={"label": "y"}, ops={"compile": None})
    assert switches(other) == [("compile", ["ops.compile: none null"])]


@pytest.mark.parametrize(
    ("target", "grouped", "order", "message"),
    [
        (CONFIG, (), (), r"got the same config for --baseline and --target, expected settings in which they differ"),
        (changed(model={"hidden_size": 16}), (), (), r"model\.hidden_size: 8 and 16\), expected differences in ops"),
        (
            changed(optim={"kind": "muon", "momentum": 0.9}),
            (),
            (),
            r"optim\.kind: 'adamw' and 'muon'.*optim\.momentum: None and 0\.9.*litespark bench to-loss",
        ),
        (changed(ops={"rope": "a b"}), (), (), r"ops\.rope: got 'a b', expected a name, a number"),
        (FAST, ("kernels",), (), r"--switch: got 'kernels', expected NAME=KEY,KEY"),
        (FAST, ("k=ops.compile",), (), r"--switch: got 'k=ops\.compile', .* differ: ops\.rope,"),
        (FAST, ("k=ops.rope", "k=ops.attention"), (), r"--switch: got the name k for two switches"),
        (FAST, (), ("rope",), r"--order: got rope, expected each of rope,attention,recompute,fused once"),
    ],
)
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
        self.ran: list[tuple[str, tuple[str, str, bool | None]]] = []
        self.most = most

    def __call__(self, request: Request, folder: Path, *, timeout: float) -> RoundRecord:
        if len(self.ran) == self.most:
            raise KeyboardInterrupt
        parts = composed(*request.overrides)
        found = (parts.ops.attention, parts.recompute, parts.optim.fused)
        self.ran.append((request.variant, found))
        on = sum(one != off for one, off in zip(found, ("reference", "full", False), strict=True))
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
    assert [name for name, _ in processes.ran] == [*NAMES, *reversed(NAMES), *NAMES]
    settings = [("reference", "full", False), ("sdpa", "full", False), ("sdpa", "none", False), ("sdpa", "none", True),
                ("reference", "none", True), ("sdpa", "full", True)]  # fmt: skip
    assert dict(processes.ran) == dict(zip(NAMES, settings, strict=True))
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
    assert (other != path, record.names) == (True, ["both", "fused"])
    rest = Processes()
    record, continued = run(tmp_path, rest)
    assert (continued, record.complete) == (path, True)
    assert len(rest.ran) == 3 * len(NAMES) - 5


def test_baseline_and_target_may_be_experiments_and_others_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"differ in what is trained \(optim\.lr"):
        run(tmp_path, Processes(), target=[*TARGET, "optim.lr=1"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            Processes(most=0),
            baseline=["experiment=llama3b_baseline"],
            target=["experiment=llama3b_litespark"],
        )
    record = AblationRecord.read(next(tmp_path.glob("*/*.json")))
    assert record.names[0] == "rms_norm"
    assert record.names[-2:] == ["recompute", "fused"]


def test_the_gain_of_fp8_is_measured_beside_its_loss(tmp_path):
    """Simulated on a CPU, which shows that it runs and what it does to the loss."""
    record, _ = run(
        tmp_path,
        lambda request, *_, **__: measured(composed(*request.overrides), request),
        FP8,
        baseline=["precision=fp32"],
        target=["precision=fp8"],
    )
    assert record.complete
    assert [each.name for each in record.switches] == ["precision"]
    wide, narrow = (each.measured[0] for each in record.variants)
    assert wide.train_loss != narrow.train_loss
    assert narrow.loss == pytest.approx(wide.loss, rel=0.01)
    assert from_record(record).rows[1].gain is not None
    assert "SIMULATED" in record.variants[1].about
