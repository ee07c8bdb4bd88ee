"""A session of to-loss: which runs it takes and in which order, what it keeps, and what the same command continues."""

import re
from dataclasses import dataclass, field

import pytest

from litespark.benchmarks.to_loss import session as module
from litespark.benchmarks.to_loss.session import DEFAULT, ToLossSettings, bench_to_loss
from litespark.benchmarks.training_runs.launch import Ended
from litespark.benchmarks.training_runs.settings import seeds_of
from litespark.benchmarks.training_runs.variants import Variant, parse
from litespark.cli import main
from litespark.cli.configs import compose
from litespark.experiment.config import ConfigError, parts_from
from litespark.metrics.records.to_loss import ToLossRecord
from tests.benchmarks.to_loss.finished_runs import finished, write_run
from tests.cli.conftest import logging_as_before
from tests.cli.tiny_run import tiny

__all__ = ["logging_as_before"]

TARGET = 2.0
TWO = (parse("reference", DEFAULT), Variant("ours", ("ops=litespark", "optim=adamw", "optim.lr=0.02")))
POINTS = ((4, 512, 5.0, 2.5), (8, 1024, 10.0, 1.9))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with a text, which is prepared once."""
    return tmp_path_factory.mktemp("house")


@dataclass
class Session:
    """A session whose runs end as told; `ends` gives (variant, seed) another end than `POINTS`."""

    house: object
    output: object
    ends: dict = field(default_factory=dict)
    seconds_of_a_run: float = 60.0
    started: list = field(default_factory=list)
    trainings: list = field(default_factory=list)
    said: list = field(default_factory=list)
    now: float = 0.0
    manifest_hash: str = ""

    def launch(self, training):
        variant, seed = training.name.split("-")[0], int(training.name.split("-")[1])
        self.started.append((variant, seed))
        self.trainings.append(training)
        self.now += self.seconds_of_a_run
        end = self.ends.get((variant, seed), POINTS)
        if isinstance(end, Ended):
            return end
        changes = {"target": TARGET, "manifest_hash": self.manifest_hash, "seed": seed}
        if isinstance(end, dict):
            end, changes = POINTS, changes | end
        (training.folder / "checkpoints" / "step").mkdir(parents=True)
        write_run(training.folder, finished(*end, **changes), *end)
        return Ended("finished")

    def __call__(self, variants=TWO, seeds=(1, 2), minutes=None, overrides=(), target=TARGET):
        overrides = [*tiny(self.house, trainer__validate_every=4), f"paths.logs={self.output}", *overrides]

        def launch(training):
            newest = max(self.output.glob("results/*/*.json"), key=lambda path: path.stat().st_mtime_ns)
            self.manifest_hash = ToLossRecord.read(newest).stream.manifest_hash
            return self.launch(training)

        return bench_to_loss(
            lambda words: parts_from(compose(words)),
            overrides,
            variants,
            ToLossSettings(target_bpb=target, seeds=seeds, minutes=minutes),
            command=["litespark", "bench", "to-loss", *overrides],
            script=self.house / "train.py",
            output=self.output / "results",
            say=self.said.append,
            launch=launch,
            clock=lambda: self.now,
        )


@pytest.fixture
def session(house, tmp_path):
    return Session(house, tmp_path)


def test_variants_take_turns_and_every_second_seed_is_reversed(session):
    record, path = session()
    assert session.started == [("reference", 1), ("ours", 1), ("ours", 2), ("reference", 2)]
    assert ToLossRecord.read(path) == record
    assert record.complete
    assert path.name.endswith("_bench-to-loss_tiny_fp32.json")
    assert [[run.position for run in variant.runs] for variant in record.variants] == [[0, 1], [1, 0]]
    assert record.variants[0].runs[0].tokens == 1024
    assert not list(session.output.glob("to-loss/runs/*/checkpoints"))


def test_each_run_is_given_the_config_then_its_settings_then_seed_and_target(session):
    session(seeds=(7,))
    for training, variant in zip(session.trainings, TWO, strict=True):
        words = training.overrides
        at = words.index(variant.settings[0])
        assert words[at : at + len(variant.settings)] == variant.settings
        assert words.index("seed=7") > at
        assert words.index("budget.target_bpb=2.0") > at
        assert training.seconds is None


def test_a_target_that_is_missed_is_kept_with_its_best(session):
    session.ends["ours", 1] = ((4, 512, 5.0, 2.1), (8, 1024, 10.0, 2.3))
    record, _ = session(seeds=(1,))
    run = record.variants[1].run(1)
    assert (run.reached, run.best_bits_per_byte) == (False, 2.1)
    assert record.complete
    assert any("NOT reached, best 2.1000" in line for line in session.said)


def test_a_failure_leaves_the_variant_out_until_the_command_is_given_again(session):
    session.ends["ours", 1] = Ended("failed", "out of memory")
    record, path = session()
    assert session.started == [("reference", 1), ("ours", 1), ("reference", 2)]
    assert [(each.seed, each.error) for each in record.variants[1].failures] == [(1, "out of memory")]
    assert not record.complete
    session.ends.clear()
    session.started.clear()
    record, again = session()
    assert again == path
    assert session.started == [("ours", 1), ("ours", 2)]
    assert ToLossRecord.read(path).complete


def test_the_time_that_is_left_is_given_to_each_run_and_the_same_command_goes_on(session):
    _, path = session(minutes=2.2)
    assert [training.seconds for training in session.trainings] == pytest.approx([132, 72])
    assert "stopped before ours with seed 2" in session.said[-1]
    session.ends["ours", 2] = Ended("stopped")
    session.trainings.clear()
    record, again = session(minutes=10)
    assert again == path
    assert [training.name.split("-")[:2] for training in session.trainings] == [["ours", "2"]]
    stopped = session.trainings[0]
    assert not record.complete
    session.ends.clear()
    session.trainings.clear()
    record, _ = session()
    # the very folder that was stopped
    assert session.trainings[0].folder == stopped.folder
    assert record.complete
    _, other = session()
    assert other != path


@pytest.mark.parametrize(("changes", "asked"), [({"manifest_hash": "other"}, "manifest_hash"), ({"seed": 5}, "seed")])
def test_a_run_on_other_data_or_with_another_seed_is_a_failure(session, changes, asked):
    session.ends["ours", 1] = changes
    record, path = session()
    assert re.search(f"{asked}: got .*cannot stand beside", record.variants[1].failures[0].error)
    assert [len(variant.runs) for variant in record.variants] == [2, 0]
    assert not ToLossRecord.read(path).complete


def test_a_run_that_contradicts_itself_is_a_failure_and_the_record_can_be_read(session):
    session.ends["ours", 1] = ((4, 512, 5.0, 1.5), (8, 1024, 10.0, 1.9))
    record, path = session(seeds=(1,))
    assert "before the end, expected the run to end" in record.variants[1].failures[0].error
    assert ToLossRecord.read(path) == record


def test_another_target_or_config_is_another_record(session):
    session.ends["ours", 1] = Ended("failed", "out of memory")
    paths = [session(seeds=(1,))[1], session(seeds=(1,), overrides=["optim.lr=0.001"])[1]]
    session.ends["reference", 1] = Ended("failed", "the hand-made runs have another target")
    paths.append(session(seeds=(1,), target=1.5)[1])
    assert len(set(paths)) == 3


def test_a_record_of_other_code_is_not_continued(session, monkeypatch):
    session.ends["ours", 1] = Ended("failed", "out of memory")
    first = session(seeds=(1,))[1]
    begin = module.begin

    def of_other_code(*given):
        record = begin(*given)
        record.provenance.source_hash = "other"
        return record

    monkeypatch.setattr(module, "begin", of_other_code)
    assert session(seeds=(1,))[1] != first


def test_the_command_of_a_record_that_is_complete_trains_everything_anew(session, monkeypatch):
    begin = module.begin
    folders, paths = [], []
    for day in ("2026-01-31", "2026-02-01"):

        def begin_then(*given, day=day):
            record = begin(*given)
            record.provenance.time = f"{day}T12:00:00+00:00"
            return record

        monkeypatch.setattr(module, "begin", begin_then)
        session.trainings.clear()
        paths.append(session(seeds=(1,))[1])
        folders.append({training.folder for training in session.trainings})
    assert len(folders[0]) == len(folders[1]) == len(TWO)
    assert not folders[0] & folders[1], "a finished run would be taken for one of the new record"
    assert paths[0] != paths[1]


REFUSED = {
    "ours: got settings that change data.sequence_length": ((), "data.sequence_length=16"),
    "ours: got settings that change model.layers": ((), "model.layers=2"),
    "ours: got settings that change trainer.batch_rows": ((), "trainer.batch_rows=8"),
    "ours: got settings that change budget.steps": ((), "budget.steps=9"),
    "ours: got settings that change seed": ((), "seed=9"),
    "ours: got settings that change strategy": ((), "strategy=ddp"),
    "trainer.validate_every: got null": (("trainer.validate_every=null",), ""),
    "got 1 processes and strategy=ddp, expected one process": (("strategy=ddp",), ""),
    "got resume=None and name=mine": (("name=mine",), ""),
    r"got the override variant=\{ops:\{rope:reference\}\}, expected plain": (("variant={ops:{rope:reference}}",), ""),
    "ours: got settings that change budget.target_bpb, seed": ((), "variant={seed:9,budget:{target_bpb:9}}"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_not_be_a_fair_comparison_is_refused_before_anything_runs(session, message):
    overrides, settings = REFUSED[message]
    with pytest.raises(ConfigError, match=message):
        session(variants=(TWO[0], Variant("ours", tuple(settings.split()))), overrides=overrides)
    assert not session.started


def test_synthetic_data_is_refused(house, tmp_path):
    with pytest.raises(ConfigError, match="data=synthetic: nothing can be learned"):
        bench_to_loss(
            lambda words: parts_from(compose(words)), ["data=synthetic", f"paths.logs={tmp_path}"], TWO,
            ToLossSettings(target_bpb=2.0), command=[], script=house, output=tmp_path, say=print,
        )  # fmt: skip


def test_how_a_variant_trains_may_differ(session):
    settings = ("precision=fp32", "recompute=full", "optim=muon", "schedule=wsd", "data.micro_batch_size=4")
    record, _ = session(variants=(TWO[0], Variant("ours", settings)), seeds=(1,))
    assert record.complete


def test_names_stand_once(session):
    with pytest.raises(ConfigError, match="got reference, reference, expected at least one and each once"):
        session(variants=(TWO[0], TWO[0]))


def test_variants_are_named_or_spelled_out():
    assert [parse(each.name, DEFAULT) for each in DEFAULT] == list(DEFAULT)
    assert DEFAULT[0] == Variant("reference", ("ops=reference", "optim=adamw", "schedule=cosine"))
    assert parse("wide: ops=litespark  optim.lr=1e-3", DEFAULT) == Variant("wide", ("ops=litespark", "optim.lr=1e-3"))
    assert parse("plain:", DEFAULT) == Variant("plain", ())
    for wrong in ("unknown", "two words: a=1", "../up: a=1", ": a=1"):
        with pytest.raises(ValueError, match="--variant: got"):
            parse(wrong, DEFAULT)


def test_seeds_and_settings_that_make_no_sense_are_refused():
    assert seeds_of("1,2") == (1, 2)
    with pytest.raises(ValueError, match="--seeds: got 'one'"):
        seeds_of("one")
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="--seeds"):
            ToLossSettings(target_bpb=2.0, seeds=seeds)
    for target in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="--target-bpb"):
            ToLossSettings(target_bpb=target)
    with pytest.raises(ValueError, match="--minutes"):
        ToLossSettings(target_bpb=2.0, minutes=0.0)


def test_runs_of_train_py_are_read_as_it_writes_them(house, tmp_path):
    def launch(training):
        words = [*training.overrides, f"paths.logs={training.logs}", f"name={training.name}"]
        assert main(["train", *words]) == 0
        return Ended("finished")

    record, _ = bench_to_loss(
        lambda words: parts_from(compose(words)),
        tiny(house, budget__steps=40, trainer__validate_every=4, optim__lr="1e-2", paths__logs=tmp_path),
        (parse("reference", DEFAULT), parse("muon", DEFAULT)),
        ToLossSettings(target_bpb=2.6),
        command=[],
        script=house,
        output=tmp_path / "results",
        say=lambda line: None,
        launch=launch,
    )
    assert record.complete
    for variant in record.variants:
        (run,) = variant.runs
        assert run.reached
        assert run.tokens == run.step * 4 * 32 < 40 * 4 * 32
        assert run.final_bits_per_byte <= 2.6 < run.curve[-2].bits_per_byte
        assert run.joules is not None or run.joules_reason
