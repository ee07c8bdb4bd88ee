"""Inside the process that measures a variant: our step is train.py's, and a full memory is an answer."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

from litespark.benchmarks.step import process
from litespark.benchmarks.step.process import asked_parts, out_of_memory
from litespark.benchmarks.step.training import BareTraining, LitesparkTraining
from litespark.metrics.records.base import parse
from litespark.metrics.records.step import RoundRecord
from litespark.run import build
from litespark.run.config import ConfigError
from litespark.training.model_builder import ModelBuilder
from litespark.training.module import TrainingModule
from litespark.training.step import OptimizerStep
from tests.benchmarks.step.tiny_steps import measured, parts, request
from tests.stand_in_device import stand_in

ALLOCATOR = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 79 GiB"


def _complete(answer: RoundRecord) -> None:
    assert answer.outcome == "measured"
    assert len(answer.step_ms) == 4
    assert min(answer.step_ms) > 0
    assert len(answer.train_loss) == 6
    assert (answer.joules is None) == (answer.joules_reason is not None)
    assert answer.error is None


def test_ours_and_train_py_itself_end_in_the_same_loss(tmp_path):
    """With masked documents, several micro-batches, clipping and a schedule: everything that a step has."""
    settings = ("data.document_mask=true", "trainer.log_every=2", "optim.grad_clip=0.5")
    ours = measured(tmp_path, "litespark", "litespark", *settings)
    _complete(ours)
    assert ours.recompute == "none"
    assert ours.peak_memory_mib is None
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


def test_ours_is_built_by_what_train_py_is_built_with(tmp_path, monkeypatch):
    called = []
    for owner, name in ((build, "choose_ops"), (ModelBuilder, "build"), (TrainingModule, "configure_optimizers")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, real=real, name=name: (called.append(name), real(*given))[1])
    measured(tmp_path, "litespark", "litespark")
    assert called == ["choose_ops", "build", "configure_optimizers"]


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


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_any_optimizer_of_ours_takes_its_steps(tmp_path, optim):
    answer = measured(tmp_path, "litespark", "litespark", f"optim={optim}")
    _complete(answer)
    assert answer.train_loss[-1] < answer.train_loss[0]


def test_layers_and_recompute_are_those_of_the_request(tmp_path):
    mine = parts(tmp_path)
    ours = asked_parts(mine, request(tmp_path, "litespark", "litespark", layers=1, recompute="swiglu"))
    assert (ours.model.num_layers, ours.recompute, ours.budget.steps, ours.data.validation_sequences) == (
        1,
        "swiglu",
        6,
        3,
    )
    assert (mine.model.num_layers, mine.recompute) == (2, "none")
    answer = measured(tmp_path, "litespark", "litespark", layers=1, recompute="full")
    assert answer.recompute == "full"
    theirs = measured(tmp_path, "standard", layers=1, recompute="none")
    assert theirs.recompute == "none"
    # one layer has another loss than two, and it is the same one
    assert theirs.loss == pytest.approx(answer.loss, rel=1e-3)
    with pytest.raises(ConfigError, match="recompute: got 'half'"):
        measured(tmp_path, "litespark", "litespark", recompute="half")


@pytest.mark.parametrize(("kind", "variant"), [("litespark", "litespark"), ("huggingface", "standard")])
@pytest.mark.parametrize("where", ["building", "a step"])
def test_a_full_memory_is_an_answer(tmp_path, monkeypatch, kind, variant, where):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError(ALLOCATOR)

    if where == "building":
        monkeypatch.setattr(process, "construct_module", full)
    else:
        monkeypatch.setattr(torch.Tensor, "backward", full)
    answer = measured(tmp_path, variant, kind)
    assert (answer.outcome, answer.error) == ("out of memory", "CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert answer.recompute == ("full" if kind == "huggingface" else "none")
    assert (answer.step_ms, answer.loss, answer.round, answer.position) == ([], None, 0, 1)


def test_another_error_is_no_answer(tmp_path, monkeypatch):
    def wrong(self, batch):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(LitesparkTraining, "step", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measured(tmp_path, "litespark", "litespark")


def test_a_full_memory_is_seen_behind_the_compilers_error():
    wrapped = RuntimeError("backend='inductor' raised")
    wrapped.__cause__ = torch.OutOfMemoryError(ALLOCATOR)
    assert out_of_memory(wrapped) == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`")) is not None
    assert out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


def test_train_py_that_runs_out_of_memory_says_so(tmp_path, monkeypatch):
    def full(parts, request):
        raise RuntimeError(ALLOCATOR)  # what its run record holds then

    monkeypatch.setattr(process, "run_training_script", full)
    assert measured(tmp_path, "train.py", "train.py").outcome == "out of memory"


def test_what_cannot_be_measured_here_is_refused_in_the_process_too(tmp_path):
    with pytest.raises(ConfigError, match=r"compiled_fp8 cannot be measured here: .*fp8 units"):
        measured(tmp_path, "compiled_fp8")
    with pytest.raises(ConfigError, match=r"data.document_mask=false"):
        measured(tmp_path, "sdpa", "huggingface", "data.document_mask=true")


def test_the_memory_of_a_gpu_is_the_peak_of_its_steps(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(process, "take_steps", lambda *given, **options: (done.append("steps"), _Taken)[1])
    monkeypatch.setattr(process, "held_out_loss", lambda *given: (done.append("held out"), 4.0)[1])
    stand_in(monkeypatch, "cuda", calls=done, peak=3 * 2**20)
    asked = dataclasses.replace(request(tmp_path, "sdpa"), started=90.0)
    answer = process._take(_Taken, [], [], asked, torch.device("cuda", 0), None)
    assert answer.peak_memory_mib == 3.0
    # neither what building took nor the loss afterwards, which needs no speed and no economy
    assert done == ["reset", "steps", "peak", "held out"]
    assert answer.seconds_before == 10.0


class _Taken:
    """What both the steps and the training would say."""

    recompute, detail = "none", None
    step_ms, train_loss, before, after, began = [1.0], [2.0], None, None, 100.0

    class energy:
        joules, method, reason = None, None, "none"


def test_in_bf16_ours_computes_under_the_trainers_autocast_with_fp32_masters(tmp_path, monkeypatch):
    seen = []
    real = LitesparkTraining.__init__

    def watched(self, *given):
        real(self, *given)
        first = self.model.blocks[0].mlp.gate_up
        first.register_forward_hook(lambda module, inputs, output: seen.append((output.dtype, module.weight.dtype)))

    monkeypatch.setattr(LitesparkTraining, "__init__", watched)
    _complete(measured(tmp_path, "litespark", "litespark", "precision=bf16"))
    # six steps of two micro-batches, and two batches of held-out rows
    assert seen == [(torch.bfloat16, torch.float32)] * 14
