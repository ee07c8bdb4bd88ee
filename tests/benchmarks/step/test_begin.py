"""What is decided before the first process: what can be compared, the record, and the roofline of each variant."""

import pytest
import torch

from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.begin import StepSettings, add_rates, decide, described
from litespark.benchmarks.step.variants import parse
from litespark.metrics.records.step import RatesRecord
from litespark.planning.flops import hardware_flops_per_token
from litespark.run.composing import compose_parts
from tests.benchmarks.step.tiny_steps import SESSION, SETTINGS, TINY

pytestmark = pytest.mark.usefixtures("at_once")
BF16 = [*SESSION[:-1], "precision=bf16"]
SIMULATED = ["data=synthetic", "trainer.accelerator=cpu", "precision=fp32", "precision.fp8.simulate=true", *TINY]
WITH_FP8 = RatesRecord(matmul_flops=1e12, attention_flops=1e12, copy_bytes=1e9, fp8_matmul_flops=2e12)


def begun(overrides, *words):
    decided = decide(overrides, [parse(word) for word in words], SETTINGS)
    record = described(decided, overrides, SETTINGS, ["litespark"])
    add_rates(record, decided)
    return record


def rooflines(record):
    return [{part.kernel_class: part.milliseconds for part in each.roofline} for each in record.variants]


def test_the_record_says_what_was_run_where_and_how(tmp_path):
    record = begun([*SESSION, f"paths.logs={tmp_path}"], "litespark")
    model = compose_parts(SESSION).model
    assert record.provenance.source_hash == "0123456789abcdef"
    assert record.provenance.overrides == [*SESSION, f"paths.logs=…/{tmp_path.name}"]
    assert record.provenance.environment.devices
    assert record.model.parameters == model.parameter_count()
    assert record.model.flops_per_token_recomputed == hardware_flops_per_token(model, 8.5, "full")
    protocol = record.protocol
    assert (protocol.micro_batch_size, protocol.accumulate, protocol.seq_len) == (2, 2, 16)
    assert (protocol.data, protocol.precision, protocol.rounds) == ("synthetic", "fp32", 3)
    assert {each.kernel_class for each in record.variant("litespark").roofline} >= {"gemm", "attention", "optimizer"}
    assert str(tmp_path) not in str(record)


def test_all_variants_see_whole_sequences_where_hugging_face_takes_part():
    documents = [*SESSION, "data.document_length=5", "data.document_mask=true"]
    for words, masked in ((["sdpa", "litespark"], False), (["litespark"], True)):
        decided = decide(documents, [parse(word) for word in words], SETTINGS)
        assert decided.overrides == [*documents, *([] if masked else ["data.document_mask=false"])]
        assert described(decided, documents, SETTINGS, []).protocol.document_mask is masked


@pytest.mark.parametrize(
    "overrides, words, settings, complaint",
    [
        (["strategy=ddp"], ["litespark"], {}, "strategy=ddp, expected one process and strategy=single"),
        (["resume=somewhere"], ["litespark"], {}, "a benchmark starts from initial weights"),
        (["data.seq_len=100000"], ["litespark"], {}, "expected at most model.max_seq_len"),
        ([], ["litespark", "litespark"], {}, "got litespark, litespark, expected at least one and each once"),
        ([], [], {}, "got none, expected at least one"),
        ([], ["wide:model.hidden_size=256 data.seq_len=8"], {}, "settings that change model, data, expected"),
        ([], ["big:trainer.global_batch_size=8 resume=x"], {}, "settings that change resume, trainer.global"),
        (["variant={ops:{rope:reference}}"], ["x:ops=reference"], {}, "got the override variant=.* one by one"),
        (["precision=fp8"], ["litespark"], {}, "no fp8 units"),
        ([], ["litespark"], {"steps": 0}, "--steps: got 0, expected"),
        pytest.param(
            ["trainer.accelerator=gpu"],
            ["litespark"],
            {},
            "got no gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(overrides, words, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        decide([*SESSION, *overrides], [parse(word) for word in words], StepSettings(**settings))


def test_the_roofline_is_of_the_precision_that_a_variant_computes_in_and_of_adamw_alone():
    first, *others = rooflines(begun(SESSION, "litespark", "narrow:precision=bf16", "other:optim=muon"))
    assert others == [{}, {}]
    # 12 · L · H · Dh FLOPs for each of 8.5 keys of 2 · 2 · 16 tokens, at 1e14 a second
    assert first["attention"] == pytest.approx(12 * 4 * 128 * 8.5 * 64 / 1e14 * 1e3)


def test_rooflines_in_fp8_need_the_rate_of_fp8(monkeypatch):
    monkeypatch.setattr(begin_module, "why_not", lambda variant, device, parts: None)
    assert [bool(each.roofline) for each in begun(BF16, "litespark", "compiled_fp8").variants] == [True, False]
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: WITH_FP8)
    monkeypatch.setattr(begin_module, "activation_dtype", lambda precision, device: torch.bfloat16)
    words = ["litespark", "compiled_fp8", "narrow:precision=fp8"]
    wide, *narrow = rooflines(begun([*BF16, "precision.fp8.simulate=true"], *words))
    assert all(each["gemm"] < wide["gemm"] and each["copies"] > wide["copies"] for each in narrow)


def test_the_record_says_what_is_only_simulated(monkeypatch):
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: WITH_FP8)
    wide, record = begun(SIMULATED, "litespark", "narrow:precision=fp8").variants
    assert "fp8" not in wide.about
    assert "fp8 SIMULATED, whose speed says nothing" in record.about
    # on a CPU activations are in fp32: neither the rate of bf16 nor that of fp8 was measured
    assert record.roofline == []
