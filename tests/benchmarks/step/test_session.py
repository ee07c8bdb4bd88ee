"""How variants take turns; no process is started: each test hands in a launch that answers as one would."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.begin import StepSettings, add_rates, decide, described
from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.session import Surroundings, bench_step
from litespark.benchmarks.step.variants import HUGGINGFACE, TRAINER, Variant, litespark_variant
from litespark.metrics.records.step import RatesRecord, RoundRecord, StepRecord
from litespark.planning.flops import hardware_flops_per_token
from litespark.reports.step import succeeded
from litespark.run import new_record as provenance_module
from litespark.run.compose import compose_parts

OURS = litespark_variant("litespark")
SETTINGS = StepSettings(rounds=3, warmup_steps=1, steps=2, loss_rows=2)
OVERRIDES = ["model=tiny", "data=synthetic", "data.seq_len=16", "data.micro_batch_size=2",
             "trainer.global_batch_size=4", "trainer.accelerator=cpu", "precision=fp32"]  # fmt: skip


@pytest.fixture(autouse=True)
def one_state_of_the_code(monkeypatch):
    """Whatever happens to the working tree while tests run; rates at once; and every variant can run here."""
    monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "0123456789abcdef")
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RatesRecord(1e11, 1e10, 1e10))
    monkeypatch.setattr(begin_module, "why_not", lambda variant, device, parts: None)


class Processes:
    """Answers as processes would, and remembers what was asked."""

    def __init__(self, answer: Callable[[Request], str] = lambda request: "measured") -> None:
        self.answer = answer
        self.asked: list[Request] = []
        self.overrides: list[list[str]] = []
        self.caches: list[str | None] = []
        self.seconds = 0.0
        self.each = 10.0

    def __call__(self, request: Request, overrides: Sequence[str], folder: Path, *, timeout: float) -> RoundRecord:
        self.asked.append(request)
        self.overrides.append(list(overrides))
        self.caches.append(os.environ.get("TRITON_CACHE_DIR"))
        assert folder.is_dir()
        self.seconds += self.each
        outcome = self.answer(request)
        recompute = request.recompute or "none"
        if outcome != "measured":
            return RoundRecord(request.round, request.position, outcome, recompute, error="it broke")
        return RoundRecord(
            request.round, request.position, "measured", recompute, step_ms=[10.0] * request.steps, tokens=128,
            attention_pairs=1088, joules_reason="no counter", train_loss=[8.0] * 3, loss=8.0, seconds_before=5.0,
        )  # fmt: skip

    @property
    def order(self) -> list[tuple[int, int, str]]:
        return [(each.round, each.position, each.variant) for each in self.asked]


def run(
    output: Path, processes: Processes, variants: Sequence[Variant] = (HUGGINGFACE["standard"], OURS, TRAINER), **named
):
    settings = dataclasses.replace(SETTINGS, **named.pop("settings", {}))
    said: list[str] = []
    record, path = bench_step(
        named.pop("overrides", OVERRIDES), variants, settings, command=["litespark", "bench", "step"],
        output=output, around=Surroundings(said.append, processes, lambda: processes.seconds), **named,
    )  # fmt: skip
    assert StepRecord.read(path) == record
    return record, path, said


def outcomes(record: StepRecord, name: str) -> list[tuple[int, str, str]]:
    return [(each.round, each.outcome, each.recompute) for each in record.variant(name).rounds]


def test_every_second_round_is_reversed_and_every_process_is_a_new_one(tmp_path):
    processes = Processes()
    record, path, _ = run(tmp_path, processes)
    assert processes.order == [
        (0, 0, "standard"), (0, 1, "litespark"), (0, 2, "train.py"),
        (1, 0, "train.py"), (1, 1, "litespark"), (1, 2, "standard"),
        (2, 0, "standard"), (2, 1, "litespark"), (2, 2, "train.py"),
    ]  # fmt: skip
    assert record.complete
    assert path.parent.parent == tmp_path
    assert path.name == f"{record.provenance.time[:10]}_bench-step_tiny_fp32.json"
    assert (processes.asked[0].warmup_steps, processes.asked[0].steps, processes.asked[0].loss_rows) == (1, 2, 2)


def test_all_variants_see_whole_rows_where_hugging_face_takes_part(tmp_path):
    processes = Processes()
    documents = [*OVERRIDES, "data.document_length=5"]
    record, *_ = run(tmp_path, processes, overrides=documents)
    assert all(each == [*documents, "data.document_mask=false"] for each in processes.overrides)
    assert record.protocol.document_mask is False
    alone = Processes()
    record, *_ = run(tmp_path, alone, [OURS], overrides=documents)
    assert all(each == documents for each in alone.overrides)
    assert record.protocol.document_mask is True


def test_a_user_may_say_the_same_of_documents(tmp_path):
    record, *_ = run(tmp_path, Processes(), overrides=[*OVERRIDES, "data.document_mask=true"])
    assert record.protocol.document_mask is False


def test_processes_share_what_they_compile_and_leave_the_environment_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen")
    processes = Processes()
    run(tmp_path, processes)
    assert set(processes.caches) == {str(tmp_path / "cache" / "litespark" / "compiled" / "triton")}
    assert "TRITON_CACHE_DIR" not in os.environ
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"


def test_out_of_memory_is_tried_with_more_recomputation_and_kept_so(tmp_path):
    """Ours needs `full`; the first attempts stay in the record, and later rounds begin where the first ended."""
    processes = Processes(
        lambda request: (
            "out of memory" if request.variant == "litespark" and request.recompute in (None, "swiglu") else "measured"
        )
    )
    record, *_ = run(tmp_path, processes)
    assert outcomes(record, "litespark") == [
        (0, "out of memory", "none"), (0, "out of memory", "swiglu"), (0, "measured", "full"),
        (1, "measured", "full"), (2, "measured", "full"),
    ]  # fmt: skip
    assert outcomes(record, "standard") == [(number, "measured", "none") for number in range(3)]
    # the other attempts keep the place of the first
    assert {each.position for each in processes.asked if each.variant == "litespark"} == {1}
    assert record.complete
    model = compose_parts(OVERRIDES).model
    assert record.model.flops_per_token_recomputed == hardware_flops_per_token(model, 8.5, "full")


def test_hugging_face_knows_none_and_full(tmp_path):
    processes = Processes(lambda request: "measured" if request.recompute == "full" else "out of memory")
    record, *_ = run(tmp_path, processes)
    assert outcomes(record, "standard")[:2] == [(0, "out of memory", "none"), (0, "measured", "full")]


def test_what_never_fits_is_not_tried_again(tmp_path):
    processes = Processes(lambda request: "out of memory" if request.variant == "standard" else "measured")
    record, *_ = run(tmp_path, processes)
    assert outcomes(record, "standard") == [(0, "out of memory", "none"), (0, "out of memory", "full")]
    assert record.complete
    assert succeeded(record)


def test_a_variant_that_fails_is_left_out_and_tried_again_by_the_same_command(tmp_path):
    broken = Processes(lambda request: "failed" if request.variant == "standard" else "measured")
    record, path, said = run(tmp_path, broken)
    assert outcomes(record, "standard") == [(0, "failed", "none")]
    assert len(record.variant("litespark").measured) == 3
    assert not record.complete
    assert not succeeded(record)
    assert "standard: failed: it broke" in said
    mended = Processes()
    record, again, said = run(tmp_path, mended)
    assert again == path
    assert mended.order == [(0, 0, "standard"), (1, 2, "standard"), (2, 0, "standard")]
    assert outcomes(record, "standard")[0] == (0, "failed", "none")
    assert record.complete
    assert succeeded(record)
    assert any("continued, 6 processes are there" in each for each in said)


@pytest.mark.parametrize(
    "changed, complaint",
    [
        ({"step_ms": [10.0]}, "step_ms: got 1 times, expected 2"),
        ({"round": 1}, "got an answer for round 1, expected one for round 0"),
        ({"recompute": "everything"}, "recompute everything, expected none or swiglu or full"),
    ],
)
def test_an_answer_that_contradicts_the_record_is_a_failure_and_the_record_stays_readable(tmp_path, changed, complaint):
    class Odd(Processes):
        def __call__(self, request, overrides, folder, *, timeout):
            return dataclasses.replace(super().__call__(request, overrides, folder, timeout=timeout), **changed)

    record, *_ = run(tmp_path, Odd(), [OURS])
    (only,) = record.variant("litespark").rounds
    assert (only.round, only.outcome) == (0, "failed")
    assert complaint in only.error


def test_every_process_is_saved_and_the_same_command_continues(tmp_path):
    """Killed in the second round: nothing that was measured is measured again."""

    def killed(request: Request) -> str:
        if (request.round, request.variant) == (1, "litespark"):
            raise KeyboardInterrupt
        return "measured"

    first = Processes(killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, first)
    (path,) = tmp_path.glob("*/*.json")
    assert sum(len(each.rounds) for each in StepRecord.read(path).variants) == 4
    second = Processes()
    record, again, _ = run(tmp_path, second)
    assert again == path
    assert second.order == [(1, 1, "litespark"), (1, 2, "standard"), (2, 0, "standard"), (2, 1, "litespark"),
                            (2, 2, "train.py")]  # fmt: skip
    assert record.complete
    # what is finished is not continued
    third = Processes()
    _, new, _ = run(tmp_path, third)
    assert new != path
    assert len(third.asked) == 9


def unfinished(tmp_path) -> Path:
    return run(tmp_path, Processes(lambda request: "failed"))[1]


@pytest.mark.parametrize("change", ["code", "config", "protocol", "variants", "damaged"])
def test_only_the_same_measurement_is_continued(tmp_path, monkeypatch, change):
    path = unfinished(tmp_path)
    given: dict[str, object] = {}
    if change == "code":
        monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "f" * 16)
    elif change == "config":
        given["overrides"] = [*OVERRIDES, "optim.lr=0.5"]
    elif change == "protocol":
        given["settings"] = {"steps": 3}
    elif change == "variants":
        given["variants"] = [OURS]
    else:
        path.write_text(path.read_text().replace('"position": 0', '"position": -1'))
    assert run(tmp_path, Processes(), **given)[1] != path


def test_it_is_continued_otherwise(tmp_path):
    path = unfinished(tmp_path)
    assert run(tmp_path, Processes(), settings={"minutes": 5.0})[1] == path


def test_no_process_is_begun_that_would_end_after_the_minutes(tmp_path):
    """10 s each, 65 s: six end in time, and the seventh would take until 70 s."""
    processes = Processes()
    record, path, said = run(tmp_path, processes, settings={"minutes": 65 / 60})
    assert len(processes.asked) == 6
    assert not record.complete
    assert said[-1] == "stopped before standard of round 3: the same command continues"
    later = Processes()
    record, again, _ = run(tmp_path, later, settings={"minutes": 65 / 60})
    assert again == path
    assert len(later.asked) == 3
    assert record.complete


def test_the_first_of_a_variant_is_expected_to_take_as_long_as_the_longest_so_far(tmp_path):
    processes = Processes()
    run(tmp_path, processes, settings={"minutes": 25 / 60})
    assert [each.variant for each in processes.asked] == ["standard", "litespark"]


def test_every_command_takes_one_process_at_least(tmp_path):
    """Or one whose processes take longer than the minutes would never get further."""
    for number in range(1, 10):
        processes = Processes()
        record, *_ = run(tmp_path, processes, settings={"minutes": 5 / 60})
        assert len(processes.asked) == 1
        assert record.complete is (number == 9)


def test_what_cannot_run_is_in_the_record_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(
        begin_module, "why_not", lambda variant, device, parts: "no GPU" if variant.name == "train.py" else None
    )
    processes = Processes()
    record, *_ = run(tmp_path, processes)
    assert record.variant("train.py").reason == "no GPU"
    assert {each.variant for each in processes.asked} == {"standard", "litespark"}
    assert record.complete


def test_the_record_says_what_was_run_where_and_how(tmp_path):
    record, *_ = run(tmp_path, Processes(), overrides=[*OVERRIDES, f"paths.logs={tmp_path}"])
    model = compose_parts(OVERRIDES).model
    assert record.provenance.source_hash == "0123456789abcdef"
    assert len(record.provenance.config_hash) == 16
    assert record.provenance.overrides == [*OVERRIDES, f"paths.logs=…/{tmp_path.name}"]
    assert record.provenance.environment.devices
    assert record.model.parameters == model.parameter_count()
    assert (record.model.num_layers, record.model.layers_whole) == (4, 4)
    protocol = record.protocol
    assert (protocol.micro_batch_size, protocol.accumulate, protocol.seq_len) == (2, 2, 16)
    assert (protocol.data, protocol.precision, protocol.rounds) == ("synthetic", "fp32", 3)
    assert {each.kernel_class for each in record.variant("litespark").roofline} >= {"gemm", "attention", "optimizer"}
    assert str(tmp_path) not in str(record)


def test_a_model_larger_than_the_device_is_measured_by_some_of_its_layers(tmp_path, monkeypatch):
    monkeypatch.setattr(begin_module, "measurable_layers", lambda model, device: 3)
    processes = Processes()
    record, *_ = run(tmp_path, processes)
    assert (record.model.num_layers, record.model.layers_whole) == (3, 4)
    assert {each.layers for each in processes.asked} == {3}
    model = dataclasses.replace(compose_parts(OVERRIDES).model, num_layers=3)
    assert record.model.parameters == model.parameter_count()
    asked = Processes()
    record, *_ = run(tmp_path, asked, settings={"layers": 2})
    assert {each.layers for each in asked.asked} == {2}


def begun(variants: Sequence[Variant], overrides: Sequence[str] = OVERRIDES) -> StepRecord:
    decided = decide(overrides, variants, SETTINGS)
    record = described(decided, overrides, SETTINGS, ["litespark"])
    add_rates(record, decided)
    return record


@pytest.mark.parametrize(
    "overrides, variants, settings, complaint",
    [
        (["strategy=ddp"], [OURS], {}, "strategy=ddp, expected one process and strategy=single"),
        (["resume=somewhere"], [OURS], {}, "a benchmark starts from initial weights"),
        (["data.seq_len=100000"], [OURS], {}, "expected at most model.max_seq_len"),
        ([], [OURS, OURS], {}, "got litespark, litespark, expected at least one and each once"),
        ([], [], {}, "got none, expected at least one"),
        ([], [litespark_variant("wide", ("model.hidden_size=256",))], {}, "settings that change model, expected"),
        ([], [litespark_variant("long", ("data.seq_len=8",))], {}, "settings that change data"),
        ([], [litespark_variant("big", ("trainer.global_batch_size=8",))], {}, "settings that change trainer.global"),
        (["variant={ops:{rope:reference}}"], [litespark_variant("x", ("ops=reference",))], {}, "leave variant=… out"),
        ([], [OURS], {"layers": 5}, "--layers: got 5, expected at most the model's 4"),
        pytest.param(
            ["trainer.accelerator=gpu"], [OURS], {}, "got no gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(tmp_path, overrides, variants, settings, complaint):
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        run(tmp_path, Processes(), variants, overrides=[*OVERRIDES, *overrides], settings=settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, said",
    [("rounds", "--rounds"), ("warmup_steps", "--warmup"), ("steps", "--steps"), ("layers", "--layers"),
     ("minutes", "--minutes"), ("loss_rows", "loss_rows"), ("process_timeout", "process_timeout")],
)  # fmt: skip
def test_settings_below_their_least_are_refused(name, said):
    with pytest.raises(ValueError, match=f"{said}: got 0, expected"):
        StepSettings(**{name: 0})


def test_the_roofline_is_of_the_precision_that_a_variant_computes_in():
    variants = [OURS, litespark_variant("narrow", ("precision=bf16",)), HUGGINGFACE["compiled_fp8"]]
    record = begun(variants)
    assert [bool(each.roofline) for each in record.variants] == [True, False, False]
    found = {part.kernel_class: part.milliseconds for part in record.variants[0].roofline}
    # 12 · L · H · Dh FLOPs for each of 8.5 keys of 2 · 2 · 16 tokens, at 1e10 a second
    assert found["attention"] == pytest.approx(12 * 4 * 128 * 8.5 * 64 / 1e10 * 1e3)


def test_the_roofline_is_adamws_alone():
    record = begun([OURS, litespark_variant("other", ("optim=muon",))])
    assert [bool(each.roofline) for each in record.variants] == [True, False]


def test_rooflines_in_fp8_need_the_rate_of_fp8(monkeypatch):
    variants = [OURS, HUGGINGFACE["compiled_fp8"]]
    bf16 = [*OVERRIDES[:-1], "precision=bf16"]
    record = begun(variants, bf16)
    assert [bool(each.roofline) for each in record.variants] == [True, False]
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RatesRecord(1e11, 1e10, 1e10, 2e11))
    whole, narrow = begun(variants, bf16).variants
    rooflines = [{part.kernel_class: part.milliseconds for part in each.roofline} for each in (whole, narrow)]
    assert rooflines[1]["gemm"] < rooflines[0]["gemm"]


def test_variants_are_composed_with_their_settings():
    decided = decide(OVERRIDES, [OURS, litespark_variant("plain", ("ops=reference",))], SETTINGS)
    assert [parts.ops.rms_norm for _, parts in decided.variants][1] == "reference"
