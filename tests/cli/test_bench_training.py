"""`litespark bench parity`, `to-loss` and `selection` at the command line: what arrives, is printed, exit codes."""

import pytest

from litespark.benchmarks.training import session
from litespark.benchmarks.training.corpus import CorpusSettings
from litespark.benchmarks.training.session import TrainingSettings
from litespark.benchmarks.training.variants import PARITY, SELECTION, TO_LOSS
from litespark.cli import main
from tests.metrics.training_records import equal_tokens, selecting, to_target


@pytest.fixture
def given(monkeypatch, tmp_path):
    """What the session was given; it answers with `record`."""
    found = {"record": equal_tokens()}

    def bench(question, overrides, settings, variants, **others):
        found.update(question=question, overrides=overrides, settings=settings, variants=variants, **others)
        return found["record"], tmp_path / "record.json"

    monkeypatch.setattr(session, "bench_training", bench)
    return found


def test_parity_has_a_bound_and_variants_one_by_one(given, capsys, tmp_path):
    words = [
        "model=tiny",
        "--bound",
        "0.004",
        "--seeds",
        "1,2",
        "--variant",
        "bf16",
        "--variant",
        "wide: optim.lr=1e-3",
    ]
    assert main(["bench", "parity", *words, "--minutes", "5"]) == 0
    assert (given["question"], given["overrides"]) == (PARITY, ["model=tiny"])
    assert given["settings"] == TrainingSettings(seeds=(1, 2), minutes=5.0, bound=0.004)
    assert [(each.name, each.settings) for each in given["variants"]] == [
        ("bf16", ("precision=bf16",)), ("wide", ("optim.lr=1e-3",))
    ]  # fmt: skip
    assert given["script"].name == "train.py"
    assert given["command"] == ["litespark", "bench", "parity", *words, "--minutes", "5"]
    said = capsys.readouterr().out
    assert "400.0 equal tokens" in said
    assert "record.json, picture: record.png" in said
    assert (tmp_path / "record.png").is_file()


def test_the_target_is_an_option_or_an_override(given):
    given["record"] = to_target()
    target = "budget.target_bpb=1.23456789"  # all digits: the run ends there, and the record repeats the command
    for words in (["--target-bpb", "1.23456789"], [target]):
        assert main(["bench", "to-loss", "model=tiny", *words]) == 0
        assert (given["question"], given["overrides"]) == (TO_LOSS, ["model=tiny", target])
        assert given["settings"] == TrainingSettings()
        assert given["command"] == ["litespark", "bench", "to-loss", "model=tiny", *words]


def test_selection_has_a_corpus(given, capsys):
    given["record"] = selecting()
    words = ["data=text", "data/selection=web", "--clean-bytes", "5000", "--planted", "0.5", "--planted-seed", "7"]
    assert main(["bench", "selection", *words]) == 0
    assert (given["question"], given["overrides"]) == (SELECTION, words[:2])
    corpus = CorpusSettings(clean_bytes=5000, planted=0.5, planted_seed=7)
    assert given["settings"] == TrainingSettings(corpus=corpus)
    assert given["command"] == ["litespark", "bench", "selection", *words]
    assert "selected: dropped documents" in capsys.readouterr().out


def test_what_is_not_complete_or_beyond_the_bound_is_no_success(given):
    given["record"].bound = 0.003
    assert main(["bench", "parity"]) == 1
    given["record"] = to_target()
    given["record"].variants[1].runs.pop()
    assert main(["bench", "to-loss", "--target-bpb", "2"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to-loss", "--target-bpb", "low"], "Invalid value for '--target-bpb'"),
        (["to-loss", "--seeds", "x"], "--seeds: got 'x'"),
        (["selection", "--seeds", "1,1"], "--seeds: got [1, 1], expected whole numbers, each once"),
        (["parity", "--seeds", "1,-1"], "--seeds: got -1, expected a whole number from 0"),
        (["parity", "--variant", "x"], "--variant: got 'x'"),
        (["parity", "--bound", "2"], "--bound: got"),
        (["selection", "--planted", "1e6"], "--planted: got 1000000.0, expected a number from 0 to 1000"),
    ],
)
def test_what_was_given_wrong_is_named(given, words, message, capsys):
    try:
        status = main(["bench", *words])
    except SystemExit as end:
        status = end.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err
    assert "settings" not in given
