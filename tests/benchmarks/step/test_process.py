"""Inside the process that measures a variant: our step is train.py's, and a full memory is an answer."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from litespark.benchmarks.step import process
from litespark.benchmarks.step.process import asked_parts
from litespark.benchmarks.step.stepping import step_batches
from litespark.benchmarks.step.training import BareTraining
from litespark.metrics.records.base import parse
from litespark.metrics.records.step import RoundRecord
from litespark.ops.fp8.reference import Pieces
from litespark.training.step import OptimizerStep
from tests.benchmarks.step.tiny_steps import measured, parts, request
from tests.stand_in_device import stand_in

FP8 = ("ops=reference", "precision=fp8", "precision.fp8.simulate=true")
ALLOCATOR = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79 GiB"


def test_ours_and_train_py_itself_end_in_the_same_loss(tmp_path):
    """With masked documents, several micro-batches, clipping and a schedule: everything that a step has."""
    settings = ("data.document_mask=true", "trainer.log_every=2", "optim.grad_clip=0.5")
    ours = measured(tmp_path, "litespark", "litespark", *settings)
    assert (ours.outcome, ours.error, ours.recompute, ours.peak_memory_mib) == ("measured", None, "none", None)
    assert len(ours.step_ms) == 4
    assert min(ours.step_ms) > 0
    assert len(ours.train_loss) == 6
    assert (ours.joules is None) == (ours.joules_reason is not None)
    assert "ops: " in str(ours.detail)
    assert parse(RoundRecord, ours.check()) == ours
    theirs = measured(tmp_path, "train.py", "train.py", *settings)
    # the same numbers, summed in another order
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-7)
    assert theirs.attention_pairs == ours.attention_pairs < 4 * 4 * 32 * 33 // 2
    assert theirs.tokens == ours.tokens == 4 * 4 * 32
    assert len(theirs.step_ms) == 4
    assert len(str(ours.tokens_hash)) == 16
    assert theirs.tokens_hash is None
    assert not list(tmp_path.glob("train-*"))


def test_the_bare_loop_trains_as_ours_does_by_a_step_of_its_own(tmp_path, monkeypatch):
    settings = ("data.document_mask=true", "optim.grad_clip=0.5")
    ours = measured(tmp_path, "litespark", "litespark", *settings)
    monkeypatch.setattr(OptimizerStep, "loss", lambda *given: pytest.fail("it has taken our step"))
    bare = measured(tmp_path, "bare", "bare", *settings)
    assert bare.train_loss == pytest.approx(ours.train_loss, rel=1e-5)
    assert bare.loss == pytest.approx(ours.loss, rel=1e-5)
    assert (bare.tokens_hash, bare.recompute) == (ours.tokens_hash, ours.recompute)
    assert ours.train_loss[-1] < 0.9 * ours.train_loss[0], "else equal losses would say nothing"
    honest = BareTraining.step
    monkeypatch.setattr(
        BareTraining, "step", lambda self, batch: honest(self, replace(batch, learning_rate=1.2 * batch.learning_rate))
    )
    assert measured(tmp_path, "bare", "bare", *settings).loss != pytest.approx(ours.loss, rel=1e-5)


def test_layers_and_recompute_are_those_of_the_request(tmp_path):
    mine = parts(tmp_path)
    ours = asked_parts(mine, request(tmp_path, "litespark", "litespark", layers=1, recompute="swiglu"))
    found = (ours.model.num_layers, ours.recompute, ours.budget.steps, ours.data.validation_sequences)
    assert found == (1, "swiglu", 6, 3)
    assert (mine.model.num_layers, mine.recompute) == (2, "none")
    answer = measured(tmp_path, "litespark", "litespark", layers=1, recompute="full")
    theirs = measured(tmp_path, "standard", layers=1, recompute="none")
    assert (answer.recompute, theirs.recompute) == ("full", "none")
    # one layer has another loss than two, and it is the same one
    assert theirs.loss == pytest.approx(answer.loss, rel=1e-3)


COMPILER = RuntimeError("backend='inductor' raised")
COMPILER.__cause__ = torch.OutOfMemoryError(ALLOCATOR)


@pytest.mark.parametrize(
    ("kind", "variant", "owner", "name", "error"),
    [
        ("litespark", "litespark", process, "construct_module", COMPILER),
        ("huggingface", "standard", torch.Tensor, "backward", torch.OutOfMemoryError(ALLOCATOR)),
        # it ends with an error of its own that has the words
        ("train.py", "train.py", process, "run_training_script", RuntimeError(ALLOCATOR)),
    ],
)
def test_a_full_memory_is_an_answer(tmp_path, monkeypatch, kind, variant, owner, name, error):
    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(owner, name, full)
    answer = measured(tmp_path, variant, kind)
    assert (answer.outcome, answer.error) == ("out of memory", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert answer.recompute == ("full" if kind == "huggingface" else "none")
    assert (answer.step_ms, answer.loss, answer.round, answer.position) == ([], None, 0, 1)


def test_the_memory_of_a_gpu_is_the_peak_of_its_steps(tmp_path, monkeypatch):
    """Neither what building took nor the loss afterwards, which needs no speed and no economy."""
    done = []
    stand_in(monkeypatch, "cuda", calls=done, peak=3 * 2**20)
    training = SimpleNamespace(
        recompute="none", detail=None, held_out_loss=lambda batches: done.append("held out") or 4.0
    )
    data = SimpleNamespace(train_dataloader=list, val_dataloader=list)
    figures = {"step_ms": [1.0], "joules_reason": "none"}
    answers = {
        "prepare": (SimpleNamespace(device=torch.device("cuda", 0)), data, training),
        "step_batches": [],
        "choose_meter": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(process, name, lambda *given, answer=answer: answer)
    monkeypatch.setattr(process, "take_steps", lambda *given, **options: done.append("steps") or figures)
    assert process._measure(parts(tmp_path), request(tmp_path, "sdpa")).peak_memory_mib == 3.0
    assert done == ["reset", "steps", "peak", "held out"]


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise"])
def test_in_fp8_it_trains_on_the_same_tokens_to_nearly_the_same_loss(tmp_path, recipe):
    wide = measured(tmp_path, "litespark", "litespark", "ops=reference", "precision=fp32")
    found = measured(tmp_path, recipe, "litespark", *FP8, f"precision.fp8.recipe={recipe}")
    assert (found.outcome, found.tokens_hash) == ("measured", wide.tokens_hash)
    assert found.loss == pytest.approx(wide.loss, rel=0.02)
    assert found.train_loss != wide.train_loss, "they round differently"


def test_weights_are_cast_once_after_each_step_and_validation_casts_none(tmp_path, monkeypatch):
    mine = parts(tmp_path, *FP8)
    machine, data, training = process.prepare(mine, request(tmp_path, "litespark_fp8", "litespark"))
    weights = {parameter.data_ptr() for parameter in training.model.blocks.parameters() if parameter.ndim == 2}
    cast: list[bool] = []
    honest = Pieces.cast
    monkeypatch.setattr(
        Pieces, "cast", lambda self, x, *given: cast.append(x.data_ptr() in weights) or honest(self, x, *given)
    )
    batches, counts = step_batches(mine, machine, data.train_dataloader(), 3), []
    for batch in batches:
        training.step(batch)
        counts.append(sum(cast))
        cast.clear()
    training.held_out_loss(batches[0].batches)
    # 2 layers of 4 weights: before the first forward pass and after each step, whatever the number of micro-batches
    assert [*counts, sum(cast)] == [16, 8, 8, 0]
