"""Every combination is measured with its own settings, in turns, saved as it goes, and an interrupted one goes on.

Processes are not started here: each test hands in a launch that answers as a process would.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from litespark.benchmarks.ablation import session
from litespark.benchmarks.ablation.session import bench_ablation
from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.begin import StepSettings
from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.session import Surroundings
from litespark.benchmarks.step.variants import litespark_variant
from litespark.metrics.records.ablation import AblationRecord, KeyRecord, SwitchRecord
from litespark.metrics.records.step import RatesRecord, RoundRecord
from litespark.reports.ablation_rows import from_record
from litespark.run import new_record as provenance_module
from litespark.run.compose import compose_parts
from litespark.run.config import ConfigError, Parts

SETTINGS = StepSettings(rounds=2, warmup_steps=1, steps=2, loss_rows=2)
OVERRIDES = ["model=tiny", "data=synthetic", "data.seq_len=16", "data.micro_batch_size=2",
             "trainer.global_batch_size=4", "trainer.accelerator=cpu", "precision=fp32"]  # fmt: skip
BASELINE = ["ops=reference", "recompute=full", "optim.fused=false"]
TARGET = ["ops=reference", "ops.attention=sdpa", "recompute=none", "optim.fused=true"]
NAMES = ["baseline", "plus_attention", "plus_recompute", "target", "without_attention", "without_recompute"]


@pytest.fixture(autouse=True)
def one_state_of_the_code(monkeypatch):
    """Whatever else happens to the working tree while tests run; and rates at once."""
    monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "0123456789abcdef")
    for module in (begin_module, session):
        monkeypatch.setattr(module, "compose_parts", parts_of)
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RatesRecord(1e15, 1e14, 1e15))


composed = lru_cache(lambda *overrides: compose_parts(overrides))


def parts_of(overrides: Sequence[str]) -> Parts:
    """Composing takes a third of a second, and all tests compose the same."""
    return composed(*overrides)


class Processes:
    """Answers as processes would: 10 ms a step in the baseline, 1 ms less for each switch; breaks off when told to."""

    def __init__(self, most: int | None = None) -> None:
        self.asked: list[Request] = []
        self.configs: list[Parts] = []
        self.most = most

    def __call__(self, request: Request, overrides: Sequence[str], folder: Path, *, timeout: float) -> RoundRecord:
        if self.most is not None and len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append(request)
        parts = parts_of([*overrides, *request.settings])
        self.configs.append(parts)
        on = (parts.ops.attention == "sdpa") + (parts.recompute == "none") + bool(parts.optim.fused)
        return RoundRecord(
            request.round, request.position, "measured", parts.recompute, step_ms=[10.0 - on] * request.steps,
            tokens=128, attention_pairs=1088, joules_reason="no counter", train_loss=[8.0] * 3, loss=8.0,
        )  # fmt: skip


def run(output: Path, processes: Processes, overrides: Sequence[str] = (), **changes) -> tuple[AblationRecord, Path]:
    named = {"baseline": BASELINE, "target": TARGET, "settings": SETTINGS} | changes
    return bench_ablation(
        [*OVERRIDES, *overrides], command=["litespark", "bench", "ablation"], output=output,
        around=Surroundings(lambda line: None, processes), **named,
    )  # fmt: skip


def test_each_combination_runs_with_the_settings_of_its_switches_and_is_written(tmp_path):
    processes = Processes()
    record, path = run(tmp_path, processes)
    assert [each.name for each in record.switches] == ["attention", "recompute", "fused"]
    assert [each.name for each in record.variants] == NAMES
    ran = {
        request.variant: (parts.ops.attention, parts.recompute, parts.optim.fused)
        for request, parts in zip(processes.asked, processes.configs, strict=True)
    }
    assert ran == {
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


def test_rounds_are_interleaved_and_every_second_one_is_reversed(tmp_path):
    processes = Processes()
    run(tmp_path, processes)
    assert [each.variant for each in processes.asked] == [*NAMES, *reversed(NAMES)]


def test_the_table_is_what_the_processes_answered(tmp_path):
    record, _ = run(tmp_path, Processes())
    gains = [row.gain.median for row in from_record(record).rows if row.gain]
    assert gains == pytest.approx([10 / 9, 9 / 8, 8 / 7])


def test_what_was_stopped_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Processes(most=5))
    (path,) = tmp_path.glob("*/*.json")
    assert not AblationRecord.read(path).complete
    rest = Processes()
    record, continued = run(tmp_path, rest)
    assert continued == path
    assert record.complete
    assert len(rest.asked) == 2 * len(NAMES) - 5
    _, another = run(tmp_path, Processes())
    assert another != path, "a complete record is not added to"


@pytest.mark.parametrize(
    ("grouped", "names"),
    [
        ("both=ops.attention,recompute.mode", ["both", "fused"]),
        ("last=optim.fused", ["attention", "recompute", "last"]),
    ],
)
def test_other_switches_are_another_record(tmp_path, grouped, names):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Processes(most=1))
    record, path = run(tmp_path, Processes(), grouped=[grouped])
    assert record.names == names
    assert len(list(tmp_path.glob("*/*.json"))) == 2
    assert AblationRecord.read(path).names == names


def test_baseline_and_target_may_be_experiments(tmp_path):
    small = ["data=synthetic", "data.seq_len=16", "data.micro_batch_size=2", "trainer.global_batch_size=2",
             "trainer.accelerator=cpu", "precision=fp32", "model=tiny"]  # fmt: skip
    processes = Processes(most=0)
    with pytest.raises(KeyboardInterrupt):
        bench_ablation(
            small, baseline=["experiment=llama3b_baseline"], target=["experiment=llama3b_litespark"],
            settings=SETTINGS, command=[], output=tmp_path, around=Surroundings(lambda line: None, processes),
        )  # fmt: skip
    record = AblationRecord.read(next(tmp_path.glob("*/*.json")))
    assert record.names[0] == "rms_norm"
    assert record.names[-2:] == ["recompute", "fused"]


def test_another_training_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"differ in what is trained \(optim\.lr"):
        run(tmp_path, Processes(), target=[*TARGET, "optim.lr=1"])
    assert list(tmp_path.iterdir()) == []


def test_an_override_that_is_stronger_than_the_switches_is_refused(tmp_path):
    """In the target it wins over the override beside it; in the combinations over their switches."""
    with pytest.raises(ConfigError, match=r"^variant=…: got settings that are laid over .* leave variant=… out"):
        run(tmp_path, Processes(), baseline=[*BASELINE, "variant={ops:{attention:reference}}"])


def test_a_combination_that_changes_more_than_its_switches_is_refused():
    switches = [SwitchRecord("rope", [KeyRecord("ops.rope", "reference", "torch")])]
    baseline, other = (SimpleNamespace(resolved={"ops": {"rope": rope}}) for rope in ("reference", "torch"))
    session._check(SimpleNamespace(variants=[(litespark_variant("baseline"), baseline)]), switches, baseline)
    with pytest.raises(ConfigError, match=r"baseline: got a config that differs .* in ops\.rope, expected nothing"):
        session._check(SimpleNamespace(variants=[(litespark_variant("baseline"), other)]), switches, baseline)
