"""The words that name variants, and the reasons for which one cannot be measured here."""

from __future__ import annotations

import importlib.util

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
    assert "GPU with fp8 units" in str(reasons["compiled_fp8"])
    assert "need a GPU" in str(reasons["liger"])
    assert why_not(parse("litespark"), CPU, mine) is None
    assert why_not(TRAINER, CPU, mine) is None


def test_masked_documents_keep_hugging_face_out_and_ours_in(tmp_path):
    masked = parts(tmp_path, "data.document_mask=true")
    assert masks_documents(masked)
    for variant in HUGGINGFACE.values():
        assert "data.document_mask=false" in str(why_not(variant, CPU, masked))
    assert why_not(parse("litespark"), CPU, masked) is None
    # one endless document has no borders to mask
    assert not masks_documents(parts(tmp_path, "data.document_mask=true", "data.document_length=null"))


def test_what_is_not_installed_is_named_with_its_remedy(tmp_path, installed, board):
    installed |= {"transformers": True, "torchao": False, "liger_kernel": False}
    bf16 = parts(tmp_path, "precision=bf16")
    assert "pip install torchao" in str(why_not(HUGGINGFACE["compiled_fp8"], CUDA, bf16))
    assert "pip install liger-kernel" in str(why_not(HUGGINGFACE["liger"], CUDA, bf16))
    installed["transformers"] = False
    assert "pip install transformers" in str(why_not(HUGGINGFACE["standard"], CPU, bf16))


def test_fp8_wants_units_sizes_and_bf16(tmp_path, installed, board):
    installed["torchao"] = True
    fp8 = HUGGINGFACE["compiled_fp8"]
    assert why_not(fp8, CUDA, parts(tmp_path, "precision=bf16")) is None
    assert "set precision=bf16" in str(why_not(fp8, CUDA, parts(tmp_path, "precision=fp32")))
    odd = parts(tmp_path, "precision=bf16", "model.intermediate_size=100")
    assert "multiples of 16: model.intermediate_size 100" in str(why_not(fp8, CUDA, odd))
    board["capability"] = (8, 0)
    assert "Testboard has compute capability 8.0, and fp8 units came with 8.9" in str(
        why_not(fp8, CUDA, parts(tmp_path, "precision=bf16"))
    )
    board["capability"] = (8, 9)
    assert why_not(fp8, CUDA, parts(tmp_path, "precision=bf16")) is None


def test_ours_in_fp8_needs_units_or_is_simulated_and_the_baselines_stay_in_bf16(tmp_path, monkeypatch):
    ours = parse("litespark_fp8:precision=fp8")
    fp8 = parts(tmp_path, "precision=fp8")
    reason = str(why_not(ours, CPU, fp8))
    assert "no fp8 units" in reason
    assert "precision.fp8.simulate=true" in reason
    simulated = parts(tmp_path, "precision=fp8", "precision.fp8.simulate=true")
    assert why_not(ours, CPU, simulated) is None
    assert "renews no scales" in str(why_not(parse("bare"), CPU, simulated))
    for name in ("standard", "compiled"):
        assert "set precision=bf16 and give the other to a variant of Litespark" in str(
            why_not(HUGGINGFACE[name], CPU, simulated)
        )
    # also where `auto` takes it
    monkeypatch.setattr(variants, "precision_of", lambda parts, device: "fp8")
    assert "set precision=bf16" in str(why_not(HUGGINGFACE["sdpa"], CPU, parts(tmp_path, "precision=auto")))


def test_another_optimizer_is_not_given_to_the_baselines(tmp_path):
    muon = parts(tmp_path, "optim=muon", "~optim.lr")
    assert "leave optim=adamw" in str(why_not(HUGGINGFACE["sdpa"], CPU, muon))
    assert why_not(parse("litespark"), CPU, muon) is None


def test_an_op_that_cannot_run_here_is_the_reason_of_ours(tmp_path):
    assert "varlen" in str(why_not(parse("litespark"), CPU, parts(tmp_path, "ops.attention=varlen")))
    # the baselines do not compute with our ops
    assert why_not(HUGGINGFACE["sdpa"], CPU, parts(tmp_path, "ops.attention=varlen")) is None


def test_a_resume_and_several_devices_are_refused(tmp_path):
    assert "resume=" in str(why_not(parse("litespark"), CPU, parts(tmp_path, "resume=somewhere")))
    assert "strategy=single" in str(why_not(HUGGINGFACE["sdpa"], CPU, parts(tmp_path, "strategy=fsdp")))


def test_sizes_that_transformers_refuses_are_named(tmp_path):
    odd = parts(tmp_path, "model.hidden_size=66", "+model.head_dim=16")
    assert "not a multiple of its num_heads" in str(why_not(HUGGINGFACE["sdpa"], CPU, odd))
