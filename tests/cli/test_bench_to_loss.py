"""`litespark bench to-loss` at the command line: how a target is said, and what comes out."""

import pytest

from litespark.benchmarks.to_loss import session
from litespark.cli import main
from tests.metrics.to_loss_records import run, two_seeds


@pytest.fixture
def given(monkeypatch, tmp_path):
    """What the session was given; it answers with a record of two seeds."""
    found = {"record": two_seeds()}

    def bench(compose, overrides, variants, settings, **others):
        found.update(overrides=overrides, variants=variants, settings=settings, **others)
        (tmp_path / "device").mkdir(exist_ok=True)
        return found["record"], tmp_path / "device" / "record.json"

    monkeypatch.setattr(session, "bench_to_loss", bench)
    return found


@pytest.mark.parametrize("words", [["target_bpb=2"], ["--target-bpb", "2"]])
def test_the_target_is_an_option_or_a_word(given, words, capsys, tmp_path):
    assert main(["bench", "to-loss", "model=tiny", *words, "--seeds", "1,2", "--minutes", "5"]) == 0
    assert (given["settings"].target_bpb, given["settings"].seeds, given["settings"].minutes) == (2.0, (1, 2), 5.0)
    assert given["overrides"] == ["model=tiny"]
    assert [each.name for each in given["variants"]] == ["reference", "litespark", "muon"]
    assert given["script"].name == "train.py"
    assert given["command"] == ["litespark", "bench", "to-loss", "model=tiny", "--target-bpb", "2", "--seeds", "1,2"]
    said = capsys.readouterr().out
    assert "To 2 validation bits per byte" in said
    assert "record.json, picture: record.png" in said
    assert (tmp_path / "device" / "record.png").is_file()


def test_variants_are_given_one_by_one(given):
    assert main(["bench", "to-loss", "target_bpb=2", "--variant", "reference", "--variant", "wide: optim.lr=1e-3"]) == 0
    assert [(each.name, each.settings[-1]) for each in given["variants"]] == [
        ("reference", "schedule=cosine"), ("wide", "optim.lr=1e-3")
    ]  # fmt: skip
    assert given["command"][-4:] == ["--variant", "reference", "--variant", "wide: optim.lr=1e-3"]


def test_a_record_that_is_not_complete_is_not_a_success(given):
    given["record"].variants[1].runs = [run(1, (100, 1.0, 1.9))]
    given["record"].complete = False
    assert main(["bench", "to-loss", "target_bpb=2"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--target-bpb: got none, expected one"),
        (["target_bpb=2", "--target-bpb", "3"], "--target-bpb: got 2 and 3"),
        (["target_bpb=low"], "--target-bpb: got 'low', expected a number"),
        (["target_bpb=2", "--seeds", "x"], "--seeds: got 'x'"),
        (["target_bpb=2", "--variant", "x"], "--variant: got 'x'"),
    ],
)
def test_what_was_said_wrong_is_named(given, words, message, capsys):
    assert main(["bench", "to-loss", *words]) == 1
    assert message in capsys.readouterr().err
    assert "settings" not in given
