"""How variants take turns; no process is started: each test hands in a launch that answers as one would."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.session import bench_step
from litespark.benchmarks.step.variants import HUGGINGFACE, TRAINER, Variant, litespark_variant
from litespark.metrics.records.step import RoundRecord, StepRecord
from litespark.reports.step import succeeded
from litespark.run import new_run
from tests.benchmarks.step.tiny_steps import SESSION, SETTINGS

pytestmark = pytest.mark.usefixtures("at_once")
OURS = litespark_variant("litespark")


@pytest.fixture(autouse=True)
def every_variant_can_run(monkeypatch):
    monkeypatch.setattr(begin_module, "why_not", lambda variant, device, parts: None)


class Processes:
    """Answers as processes would, in ten seconds each, and remembers what was asked."""

    def __init__(self, answer: Callable[[Request], str] = lambda request: "measured", **changes: object) -> None:
        self.answer, self.changes = answer, changes
        self.asked: list[Request] = []
        self.seconds = 0.0

    def __call__(self, request: Request, folder: Path, *, timeout: float) -> RoundRecord:
        self.asked.append(request)
        assert folder.is_dir()
        self.seconds += 10.0
        outcome = self.answer(request)
        recompute = request.recompute or "none"
        if outcome != "measured":
            return request.record(outcome, recompute, error="it broke")
        measured = request.record(
            "measured", recompute, step_ms=[10.0] * request.steps, tokens=128, attention_pairs=1088,
            joules_reason="no counter", train_loss=[8.0] * 3, loss=8.0, seconds_before=5.0,
        )  # fmt: skip
        return dataclasses.replace(measured, **self.changes)

    @property
    def order(self) -> list[tuple[int, int, str]]:
        return [(each.round, each.position, each.variant) for each in self.asked]


def run(
    output: Path,
    processes: Processes,
    variants: Sequence[Variant] = (HUGGINGFACE["standard"], OURS, TRAINER),
    overrides: Sequence[str] = SESSION,
    **settings: object,
):
    said: list[str] = []
    record, path = bench_step(
        overrides, variants, dataclasses.replace(SETTINGS, **settings), command=["litespark", "bench", "step"],
        output=output, say=said.append, launch=processes, clock=lambda: processes.seconds,
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
    first = processes.asked[0]
    assert (first.warmup_steps, first.steps, first.loss_sequences, first.layers) == (1, 2, 2, None)


def test_out_of_memory_is_tried_with_more_recomputation_and_kept_so(tmp_path):
    """The first attempts stay in the record, later rounds begin where the first ended; what never fits is left."""

    def fits(request: Request) -> bool:
        return request.variant == "train.py" or (request.variant, request.recompute) == ("litespark", "full")

    processes = Processes(lambda request: "measured" if fits(request) else "out of memory")
    record, *_ = run(tmp_path, processes)
    assert outcomes(record, "litespark") == [
        (0, "out of memory", "none"),
        (0, "out of memory", "swiglu"),
        (0, "measured", "full"),
        (1, "measured", "full"),
        (2, "measured", "full"),
    ]
    assert outcomes(record, "standard") == [(0, "out of memory", "none"), (0, "out of memory", "full")]
    assert outcomes(record, "train.py") == [(number, "measured", "none") for number in range(3)]
    # the other attempts keep the place of the first
    assert {each.position for each in processes.asked if each.variant == "litespark"} == {1}
    assert record.complete
    assert succeeded(record)


def test_a_variant_that_fails_is_left_out_and_tried_again_by_the_same_command(tmp_path):
    broken, mended = Processes(lambda request: "failed" if request.variant == "standard" else "measured"), Processes()
    record, path, said = run(tmp_path, broken)
    assert outcomes(record, "standard") == [(0, "failed", "none")]
    assert len(record.variant("litespark").measured) == 3
    assert (record.complete, succeeded(record)) == (False, False)
    assert "standard: failed: it broke" in said
    record, again, said = run(tmp_path, mended)
    assert again == path
    assert mended.order == [(0, 0, "standard"), (1, 2, "standard"), (2, 0, "standard")]
    assert outcomes(record, "standard")[0] == (0, "failed", "none")
    assert (record.complete, succeeded(record)) == (True, True)
    assert any("continued, 6 processes are there" in each for each in said)


def test_an_answer_that_contradicts_the_record_is_a_failure_and_the_record_stays_readable(tmp_path):
    record, *_ = run(tmp_path, Processes(loss=None), [OURS])
    (only,) = record.variant("litespark").rounds
    assert (only.round, only.outcome) == (0, "failed")
    assert "and loss None, expected all of them" in only.error


def test_every_process_is_saved_and_the_same_command_continues(tmp_path):
    """Killed in the second round: nothing that was measured is measured again, and what is finished not continued."""

    def killed(request: Request) -> str:
        if (request.round, request.variant) == (1, "litespark"):
            raise KeyboardInterrupt
        return "measured"

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Processes(killed))
    second, third = Processes(), Processes()
    record, path, _ = run(tmp_path, second)
    assert second.order == [
        (1, 1, "litespark"),
        (1, 2, "standard"),
        (2, 0, "standard"),
        (2, 1, "litespark"),
        (2, 2, "train.py"),
    ]
    assert record.complete
    assert run(tmp_path, third)[1] != path
    assert len(third.asked) == 9


@pytest.mark.parametrize("change", ["code", "damaged", "overrides", "steps", "variants"])
def test_only_the_same_measurement_is_continued(tmp_path, monkeypatch, change):
    _, path, _ = run(tmp_path, Processes(lambda request: "failed"))
    given = {"overrides": [*SESSION, "optim.lr=0.5"], "steps": 3, "variants": [OURS]}
    if change == "code":
        monkeypatch.setattr(new_run, "source_hash", lambda *folders: "f" * 16)
    elif change == "damaged":
        path.write_text(path.read_text().replace('"position": 0', '"position": -1'))
    assert run(tmp_path, Processes(), **{name: given[name] for name in given if name == change})[1] != path


@pytest.mark.parametrize(
    ("seconds", "taken", "last"),
    [(65, 6, "standard of round 3"), (25, 2, "train.py of round 1"), (5, 1, "litespark of round 1")],
)
def test_no_process_but_the_first_is_begun_that_would_end_after_the_minutes(tmp_path, seconds, taken, last):
    """10 s each, of a variant that was not yet measured as long as the longest so far."""
    processes = Processes()
    record, _, said = run(tmp_path, processes, minutes=seconds / 60)
    assert len(processes.asked) == taken
    assert not record.complete
    assert said[-1] == f"stopped before {last}: the same command continues"


def test_what_cannot_run_is_in_the_record_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(
        begin_module, "why_not", lambda variant, device, parts: "no GPU" if variant.name == "train.py" else None
    )
    processes = Processes()
    record, *_ = run(tmp_path, processes)
    assert record.variant("train.py").reason == "no GPU"
    assert {each.variant for each in processes.asked} == {"standard", "litespark"}
    assert record.complete


def test_a_model_larger_than_the_device_is_measured_by_some_of_its_layers(tmp_path, monkeypatch):
    monkeypatch.setattr(begin_module, "measurable_layers", lambda model, device: 3)
    for given, layers in (({}, 3), ({"layers": 2}, 2)):
        processes = Processes()
        record, *_ = run(tmp_path, processes, [OURS], **given)
        assert (record.model.num_layers, record.model.layers_whole) == (layers, 4)
        assert {each.layers for each in processes.asked} == {layers}
