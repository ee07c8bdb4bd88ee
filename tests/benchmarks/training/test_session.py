"""A session of variants × seeds: which runs it takes and in which order, what it keeps, and what it continues."""

from dataclasses import replace
from itertools import count

import pytest

from litespark.benchmarks.training import session as module
from litespark.benchmarks.training.variants import PARITY, TO_LOSS, Variant, check_question, parse
from litespark.child_process import Ended
from litespark.cli import main
from litespark.metrics.records.training import TrainingRecord
from litespark.reports.training import all_within
from litespark.run.composing import compose
from litespark.run.config import ConfigError, parts_from
from tests.benchmarks.training.sessions import POINTS, Session, cleared

OUT_OF_MEMORY = Ended("failed", "out of memory")
TWO = (Variant("reference", TO_LOSS.variants[0].settings), Variant("ours", ("ops=litespark", "optim.lr=0.02")))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with a text, which is prepared once."""
    return tmp_path_factory.mktemp("house")


@pytest.fixture
def to_loss(house):
    return Session(cleared(house), TO_LOSS)


@pytest.mark.parametrize("question", [TO_LOSS, PARITY], ids=lambda question: question.name)
def test_variants_take_turns_and_each_run_is_kept(house, question):
    taken = Session(cleared(house), question)
    record, path = taken(variants=TWO)
    assert taken.started == [("reference", 1), ("ours", 1), ("ours", 2), ("reference", 2)]
    assert TrainingRecord.read(path) == record
    assert record.complete
    assert path.name.endswith(f"_bench-{question.name}_tiny_fp32.json")
    assert [[run.position for run in variant.runs] for variant in record.variants] == [[0, 1], [1, 0]]
    assert record.variants[0].runs[0].end.tokens == record.stream.budget_tokens == 512
    assert record.target_bits_per_byte == (2.0 if question is TO_LOSS else None)
    assert not list(taken.house.glob("logs/*/runs/*/checkpoints"))


def test_each_run_is_given_the_config_then_its_settings_then_the_seed(to_loss):
    to_loss(variants=TWO, seeds=(7,))
    for training, variant in zip(to_loss.trainings, TWO, strict=True):
        words = training.overrides
        at = words.index(variant.settings[0])
        assert words.index("budget.target_bpb=2.0") < at < words.index("seed=7")
        assert words[at : at + len(variant.settings)] == variant.settings
        assert "callbacks.checkpoint_at_end=false" in words
        assert training.name.startswith(f"{variant.name}-7-")
        assert training.seconds is None


def test_a_failure_leaves_the_variant_out_until_the_command_is_given_again(to_loss):
    to_loss.ends = {("ours", 1): OUT_OF_MEMORY, ("reference", 2): ((2, 256, 5.0, 2.1), (4, 512, 10.0, 2.3))}
    record, path = to_loss(variants=TWO)
    assert to_loss.started == [("reference", 1), ("ours", 1), ("reference", 2)]
    assert [(each.seed, each.error) for each in record.variants[1].failures] == [(1, "out of memory")]
    assert record.variants[0].runs[1].best_bits_per_byte == 2.1
    assert any("NOT reached" in line for line in to_loss.said)
    assert not record.complete
    again = Session(to_loss.house)
    record, found = again(variants=TWO)
    assert (found, record.complete) == (path, True)
    assert again.started == [("ours", 1), ("ours", 2)]


def test_the_time_that_is_left_is_given_to_each_run_and_the_same_command_goes_on(to_loss, monkeypatch):
    made = module.provenance
    times = (f"2026-01-31T12:00:{second}+00:00" for second in count(10))
    monkeypatch.setattr(module, "provenance", lambda *given: replace(made(*given), time=next(times)))
    _, path = to_loss(variants=TWO, minutes=2.2)
    assert [training.seconds for training in to_loss.trainings] == pytest.approx([132, 72])
    assert "ours, seed 2: not started" in to_loss.said[-1]
    to_loss.ends["ours", 2] = Ended("stopped")
    record, again = to_loss(variants=TWO, minutes=10)
    assert (again, record.complete) == (path, False)
    assert to_loss.started[2:] == [("ours", 2)]
    assert "ours, seed 2: stopped, nothing was saved" in to_loss.said[-1]
    to_loss.ends.clear()
    assert to_loss(variants=TWO)[0].complete
    taken = [each.folder for each in to_loss.trainings]
    # the very folder that was stopped
    assert taken[3] == taken[2]
    # what is complete is trained anew, in other folders: a finished run would be taken for a new one
    to_loss.trainings.clear()
    assert to_loss(variants=TWO)[1] != path
    assert len(to_loss.trainings) == 4
    assert not {each.folder for each in to_loss.trainings} & set(taken)


@pytest.mark.parametrize(
    ("question", "end", "message"),
    [
        (TO_LOSS, ((2, 256, 5.0, 1.5), (4, 512, 10.0, 1.9)), "before the end, expected the run to end"),
        (PARITY, (POINTS[0], (5, 576, 12.0, 1.9)), "tokens: got 576, expected 512"),
    ],
)
def test_a_run_that_cannot_stand_beside_the_others_is_a_failure(house, question, end, message):
    session = Session(cleared(house), question)
    session.ends["ours", 1] = end
    record, path = session(variants=TWO)
    assert message in record.variants[1].failures[0].error
    assert [len(variant.runs) for variant in record.variants] == [2, 0]
    assert TrainingRecord.read(path) == record


def test_another_target_config_or_code_is_another_record(to_loss, monkeypatch):
    to_loss.ends["reference", 1] = OUT_OF_MEMORY

    def path(*words, **more):
        return to_loss(*words, variants=TWO[:1], **more)[1]

    paths = [path(), path("optim.lr=0.001"), path(target=1.5)]
    assert path() == paths[0]
    made = module.provenance
    monkeypatch.setattr(module, "provenance", lambda *given: replace(made(*given), source_hash="other"))
    assert len({*paths, path()}) == 4


REFUSED = {
    r"ours: .*budget\.steps, data\.seq_len, data\.tokenizer, model\.num_layers, seed, trainer\.global_batch_size": (
        "",
        "budget.steps=9 data.seq_len=16 data.tokenizer=other model.num_layers=2 seed=9 trainer.global_batch_size=8",
    ),
    "ours: got settings that change budget.target_bpb, seed, strategy": (
        "",
        "variant={seed:9,budget:{target_bpb:9}} strategy=ddp",
    ),
    "trainer.validate_every: got null": ("trainer.validate_every=null", ""),
    "got 1 processes and strategy=ddp, expected one process": ("strategy=ddp", ""),
    "name=mine: the benchmark names its runs": ("name=mine", ""),
    r"got the override variant=\{seed:3\}, expected plain": ("variant={seed:3}", ""),
    "precision=fp8.*simulate=true": ("", "precision=fp8"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_not_be_a_fair_comparison_is_refused_before_anything_runs(to_loss, message):
    word, settings = REFUSED[message]
    with pytest.raises(ConfigError, match=message):
        to_loss(*word.split(), variants=(TWO[0], Variant("ours", tuple(settings.split()))))
    assert not to_loss.started


def test_a_question_has_its_target_text_and_variants(house):
    to_loss, parity = Session(cleared(house), TO_LOSS), Session(house, PARITY)
    with pytest.raises(ConfigError, match="data=synthetic: nothing can be learned"):
        check_question(PARITY, parts_from(compose(["data=synthetic"])), [], TWO)
    for session, words, given, message in (
        (to_loss, (), {"target": None}, r"budget\.target_bpb: got null, expected the bits per byte"),
        (parity, ("budget.target_bpb=2.0",), {}, r"budget\.target_bpb: got 2\.0, expected null"),
        (parity, (), {"variants": TWO[:1]}, "--variant: got reference, expected at least 2"),
        (to_loss, (), {"variants": TWO[:1] * 2}, "got reference, reference, expected at least 1 and each once"),
    ):
        with pytest.raises(ConfigError, match=message):
            session(*words, **{"variants": TWO} | given)
    settings = ("precision=fp32", "recompute=full", "optim=muon", "schedule=wsd", "data.micro_batch_size=4")
    record, _ = to_loss(variants=(TWO[0], Variant("ours", settings)), seeds=(1,))
    assert record.complete


def test_variants_are_named_or_spelled_out_and_those_of_a_question_compose():
    defaults = TO_LOSS.variants
    assert [parse(each.name, defaults) for each in defaults] == list(defaults)
    assert parse("wide: ops=litespark  optim.lr=1e-3", defaults) == Variant("wide", ("ops=litespark", "optim.lr=1e-3"))
    assert parse("plain:", defaults) == Variant("plain", ())
    for wrong in ("unknown", "two words: a=1", "../up: a=1", ": a=1"):
        with pytest.raises(ValueError, match="--variant: got"):
            parse(wrong, defaults)
    for question, expected in ((PARITY, ["bf16", "fp8", "fp8"]), (TO_LOSS, ["auto"] * 3)):
        assert [parts_from(compose([*each.settings])).precision for each in question.variants] == expected


def test_runs_of_train_py_are_read_as_it_writes_them(house):
    """A run that ends at a target is read in test_finished, and written in tests/cli/test_target."""

    def launch(training):
        assert main(["train", *training.overrides, f"paths.logs={training.logs}", f"name={training.name}"]) == 0
        return Ended("finished")

    session = Session(cleared(house), PARITY)
    session.launch = launch
    simulated = parse("fp8: precision=fp8 precision.fp8.simulate=true", PARITY.variants)
    record, _ = session(variants=(Variant("fp32", ("precision=fp32",)), simulated), seeds=(1,), bound=0.05)
    assert record.complete
    first, ours = (variant.runs[0] for variant in record.variants)
    assert first.end.tokens == ours.end.tokens == 512
    assert (first.precision, first.fp8) == ("fp32", None)
    assert (ours.precision, ours.fp8.simulated, ours.fp8.in_fp8) == ("fp8", True, ours.fp8.linears)
    # another rounding gives another loss: were it the same the two would be one training
    assert first.end.bits_per_byte != ours.end.bits_per_byte
    assert (first.end.joules is None) == bool(first.joules_reason)
    assert all_within(record)
