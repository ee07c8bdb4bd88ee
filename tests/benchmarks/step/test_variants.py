"""The words that name variants, and the reasons for which one cannot be measured here."""

import re
from types import SimpleNamespace

import pytest
import torch

from litespark.benchmarks.step import variants
from litespark.benchmarks.step.variants import HUGGINGFACE, SETUPS, parse, why_not
from litespark.metrics.records.step import BASELINES
from tests.benchmarks.step.tiny_steps import parts

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_baselines_are_known_by_name_and_ours_with_their_overrides():
    assert set(HUGGINGFACE) == {*BASELINES, "liger", "applied"} == set(SETUPS)
    assert all(parse(name) is HUGGINGFACE[name] for name in HUGGINGFACE)
    ours = parse("litespark")
    assert (ours.name, ours.kind, ours.settings) == ("litespark", "litespark", ())
    plain = parse("plain:ops=reference recompute=full  optim.fused=false")
    assert (plain.name, plain.kind) == ("plain", "litespark")
    assert plain.settings == ("ops=reference", "recompute=full", "optim.fused=false")
    assert "ops=reference recompute=full" in plain.about
    # a colon within an override is part of it
    assert parse("long:data.source=a:b").settings == ("data.source=a:b",)
    for name in ("train.py", "bare"):
        assert parse(f"{name}:ops=reference").settings == ("ops=reference",)
        assert parse(name).kind == parse(f"{name}:ops=reference").kind == name


@pytest.mark.parametrize(
    "word", ["nonsense", "", ":ops=reference", "mine:", "../up:ops=x", "a b:ops=x", "sdpa:ops=reference"]
)
def test_a_word_that_names_nothing_or_changes_a_baseline_is_refused(word):
    known = "expected one of standard, sdpa, compiled, compiled_fp8, liger, applied, litespark|a baseline is what it is"
    with pytest.raises(ValueError, match=known):
        parse(word)


FP8, SIMULATED = "precision=fp8", ("precision=fp8", "precision.fp8.simulate=true")


@pytest.fixture
def board(monkeypatch):
    """A GPU of the capability that the test sets, and every package of the baselines but the one that it takes away."""
    said = SimpleNamespace(capability=(9, 0), missing=None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: said.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Testboard")
    monkeypatch.setattr(variants, "_installed", lambda package: package != said.missing)
    return said


@pytest.mark.parametrize(
    ("word", "device", "overrides", "reason"),
    [
        ("standard", CPU, (), None),
        ("train.py", CPU, (), None),
        ("compiled_fp8", CPU, (), "GPU with fp8 units"),
        ("liger", CPU, (), "need a GPU"),
        ("sdpa", CPU, ("data.document_mask=true",), "data.document_mask=false"),
        ("sdpa", CPU, ("data.document_mask=true", "data.document_length=null"), None),
        ("litespark", CPU, ("data.document_mask=true",), None),
        ("compiled_fp8", CUDA, ("precision=bf16",), None),
        ("compiled_fp8", CUDA, ("precision=fp32",), "set precision=bf16"),
        ("compiled_fp8", CUDA, ("precision=bf16", "model.intermediate_size=100"), "multiples of 16, got 100$"),
        ("litespark_fp8:precision=fp8", CPU, (FP8,), "no fp8 units.*precision.fp8.simulate=true"),
        ("litespark_fp8:precision=fp8", CPU, SIMULATED, None),
        ("bare", CPU, SIMULATED, "renews no scales"),
        ("compiled", CPU, SIMULATED, "set precision=bf16 and give the other to a variant of Litespark"),
        ("sdpa", CPU, ("optim=muon", "~optim.lr"), "leave optim=adamw"),
        ("litespark", CPU, ("optim=muon", "~optim.lr"), None),
        ("litespark", CPU, ("ops.attention=varlen",), "varlen"),
        ("sdpa", CPU, ("ops.attention=varlen",), None),
        ("sdpa", CPU, ("model.hidden_size=66", "+model.head_dim=16"), "66 is not a multiple of"),
    ],
)
def test_what_cannot_be_measured_says_why(tmp_path, board, word, device, overrides, reason):
    found = why_not(parse(word), device, parts(tmp_path, *overrides))
    assert found is reason is None or re.search(reason, found)


def test_what_is_not_installed_or_too_old_is_named(tmp_path, monkeypatch, board):
    bf16 = parts(tmp_path, "precision=bf16")
    for name, package in (("compiled_fp8", "torchao"), ("liger", "liger_kernel"), ("standard", "transformers")):
        board.missing = package
        assert f"pip install {package.replace('_', '-')}" in str(why_not(HUGGINGFACE[name], CUDA, bf16))
    board.missing, board.capability = None, (8, 0)
    old = str(why_not(HUGGINGFACE["compiled_fp8"], CUDA, bf16))
    assert "compute capability 8.0, and fp8 units came with 8.9" in old
    # auto takes fp8 where it can
    monkeypatch.setattr(variants, "precision_of", lambda parts, device: "fp8")
    assert "set precision=bf16" in str(why_not(HUGGINGFACE["sdpa"], CPU, parts(tmp_path, "precision=auto")))
