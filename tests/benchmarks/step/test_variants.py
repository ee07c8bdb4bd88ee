"""The words that name variants, and the reasons for which one cannot be measured here."""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch

from litespark.benchmarks.step import variants
from litespark.benchmarks.step.variants import HUGGINGFACE, SETUPS, TRAINER, masks_documents, parse, why_not
from litespark.metrics.records.step import BASELINES
from tests.benchmarks.step.tiny_steps import parts

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def installed(monkeypatch):
    """Packages that the test says are installed; others are as they are."""
    said: dict[str, bool] = {}
    find = importlib.util.find_spec

    def found(name):
        return (object() if said[name] else None) if name in said else find(name)

    monkeypatch.setattr(variants.importlib.util, "find_spec", found)
    return said


@pytest.fixture
def board(monkeypatch):
    """A GPU of a capability that the test sets; none is there."""
    said = {"capability": (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: said["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Testboard")
    return said


def test_the_four_baselines_and_liger_are_known_by_name():
    assert set(HUGGINGFACE) == {*BASELINES, "liger"} == set(SETUPS)
    for name in HUGGINGFACE:
        assert parse(name) is HUGGINGFACE[name]


def test_ours_are_named_with_their_overrides():
    ours = parse("litespark")
    assert (ours.name, ours.kind, ours.settings) == ("litespark", "litespark", ())
    plain = parse("plain:ops=reference recompute=full  optim.fused=false")
    assert (plain.name, plain.kind) == ("plain", "litespark")
    assert plain.settings == ("ops=reference", "recompute=full", "optim.fused=false")
    assert "ops=reference recompute=full" in plain.about
    # a colon within an override is part of it
    assert parse("long:data.source=a:b").settings == ("data.source=a:b",)
    assert parse("train.py") == TRAINER
    for name in ("train.py", "bare"):
        assert parse(f"{name}:ops=reference").settings == ("ops=reference",)
        assert parse(name).kind == parse(f"{name}:ops=reference").kind == name


@pytest.mark.parametrize("word", ["nonsense", "", ":ops=reference", "mine:", "../up:ops=x", "a b:ops=x"])
def test_a_word_that_names_nothing_is_refused(word):
    with pytest.raises(ValueError, match="expected one of standard, sdpa, compiled, compiled_fp8, liger, litespark"):
        parse(word)


def test_a_baseline_takes_no_overrides():
    with pytest.raises(ValueError, match="a baseline is what it is"):
        parse("sdpa:ops=reference")


def test_on_a_cpu_all_but_fp8_and_liger_can_be_measured(tmp_path):
    mine = parts(tmp_path)
    reasons = {name: why_not(variant, CPU, mine) for name, variant in HUGGINGFACE.items()}
    assert {name for name, reason in reasons.items() if reason is None} == {"standard", "sdpa", "compiled"}
    assert why_not(parse("litespark"), CPU, mine) is None
    assert why_not(TRAINER, CPU, mine) is None


FP8, SIMULATED = "precision=fp8", ("precision=fp8", "precision.fp8.simulate=true")


@pytest.mark.parametrize(
    ("word", "device", "overrides", "reason"),
    [
        ("compiled_fp8", CPU, (), "GPU with fp8 units"),
        ("liger", CPU, (), "need a GPU"),
        ("sdpa", CPU, ("data.document_mask=true",), "data.document_mask=false"),
        ("litespark", CPU, ("data.document_mask=true",), None),
        ("compiled_fp8", CUDA, ("precision=bf16",), None),
        ("compiled_fp8", CUDA, ("precision=fp32",), "set precision=bf16"),
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
def test_what_cannot_be_measured_says_why(tmp_path, installed, board, word, device, overrides, reason):
    installed["torchao"] = True
    found = why_not(parse(word), device, parts(tmp_path, *overrides))
    assert found is reason is None or re.search(reason, found)


def test_one_endless_document_has_no_borders_to_mask(tmp_path):
    assert masks_documents(parts(tmp_path, "data.document_mask=true"))
    assert not masks_documents(parts(tmp_path, "data.document_mask=true", "data.document_length=null"))


def test_what_is_not_installed_or_too_old_is_named(tmp_path, installed, board):
    installed |= {"transformers": True, "torchao": False, "liger_kernel": False}
    bf16 = parts(tmp_path, "precision=bf16")
    assert "pip install torchao" in str(why_not(HUGGINGFACE["compiled_fp8"], CUDA, bf16))
    assert "pip install liger-kernel" in str(why_not(HUGGINGFACE["liger"], CUDA, bf16))
    installed["transformers"] = False
    assert "pip install transformers" in str(why_not(HUGGINGFACE["standard"], CPU, bf16))
    installed |= {"transformers": True, "torchao": True}
    board["capability"] = (8, 0)
    assert "compute capability 8.0, and fp8 units came with 8.9" in str(
        why_not(HUGGINGFACE["compiled_fp8"], CUDA, bf16)
    )


def test_the_baselines_stay_in_bf16_also_where_auto_takes_fp8(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "precision_of", lambda parts, device: "fp8")
    assert "set precision=bf16" in str(why_not(HUGGINGFACE["sdpa"], CPU, parts(tmp_path, "precision=auto")))
