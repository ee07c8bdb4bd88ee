"""Steps that are recorded and replayed end in the same bits as those that are not; a tape stands in for CUDA graphs."""

from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch

from litespark import device
from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.callbacks.steps import StepCallback
from litespark.ops.backend import OpsConfig, resolve
from litespark.training import cuda_graph
from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.parallel.precision import forward_context
from litespark.training.step import OptimizerStep
from tests.training.small_runs import CPU, batches, small_run, training_module
from tests.training.tape import WithTapes

STEPS, SAVED = 6, 2


@pytest.fixture(autouse=True)
def tapes(monkeypatch):
    monkeypatch.setitem(device._KINDS, "cpu", WithTapes)


class Spoils(StepCallback):
    """Writes into a weight after the third step, so that the fourth is not finite, and mends it after that."""

    def step_ended(self, trainer, module):
        weight = module.model.blocks[0].mlp.down.weight
        with torch.no_grad():
            if module.steps_taken == 3:
                self.kept = weight[0, 0].clone()
                weight[0, 0] = float("inf")
            elif module.steps_taken == 4:
                weight[0, 0] = self.kept


def fit(folder, *, graph, accumulate=2, optimizer=None, callbacks=(), resume=None, **settings):
    folder.mkdir()
    optimizer = optimizer or AdamWConfig(lr=1e-2)
    module = training_module(steps=STEPS, sequences=2 * accumulate, optimizer=optimizer, num_layers=2)
    module.cuda_graph = graph
    phases = Phases()
    saver = Checkpointer(folder / "checkpoints", every_steps=SAVED, keep=9, about={}, phases=phases)
    run = small_run(folder, module, accumulate=accumulate, callbacks=[*callbacks, saver], phases=phases, **settings)
    state = None if resume is None else resume / "checkpoints" / f"step-{SAVED:08d}"
    run.trainer.fit(module, batches(2), ckpt_path=state, weights_only=None if resume is None else True)
    return run


def assert_same(mine, plain):
    assert len(mine.journal.weights) == len(plain.journal.weights) > 0
    for step, (ours, theirs) in enumerate(zip(mine.journal.weights, plain.journal.weights, strict=True)):
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == [], step
    assert mine.journal.skipped == plain.journal.skipped
    assert mine.module.validation == plain.module.validation


@pytest.mark.parametrize(
    "optimizer, accumulate, precision",
    [  # each two of them together once
        (AdamWConfig(lr=1e-2), 1, "bf16"),
        (AdamWConfig(lr=1e-2), 3, "fp32"),
        (MuonConfig(lr=1e-2), 1, "fp32"),
        (MuonConfig(lr=1e-2), 3, "bf16"),
    ],
    ids=lambda given: getattr(given, "kind", given),
)
def test_replayed_steps_end_in_the_same_bits(tmp_path, optimizer, accumulate, precision):
    """With validations in between, a write of a callback's, and a step that is skipped."""
    settings = {"optimizer": optimizer, "accumulate": accumulate, "precision": precision, "validate_every": 2}
    mine, plain = (fit(tmp_path / str(on), graph=on, callbacks=[Spoils()], **settings) for on in (True, False))
    assert_same(mine, plain)
    assert mine.journal.skipped[-1] == 1
    tapes = mine.module.step._graphs._graphs
    # forward and backward of the first micro-batch and of others; the end of the gradients; the optimizer
    assert tapes.recorded == (2 if accumulate == 1 else 4) + 2
    # the optimizer was in the midst of its step when it was taken over
    assert tapes.replayed == 2 * accumulate * (STEPS - 1) + (STEPS - 2) + (STEPS - 3)


def test_a_run_that_goes_on_ends_as_the_one_that_was_not_interrupted(tmp_path):
    whole = fit(tmp_path / "whole", graph=True)
    resumed = fit(tmp_path / "resumed", graph=True, resume=tmp_path / "whole")
    assert resumed.module.step._graphs._graphs.replayed > 0
    ours, theirs = (run.module.model.state_dict() for run in (resumed, whole))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# on a GPU kernels of ours, whose results are the same in every run
FAST = dict.fromkeys(("rms_norm", "add_rms_norm", "rope", "swiglu", "attention", "linear_cross_entropy"), "triton")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.mark.parametrize("optimizer", [AdamWConfig(), AdamWConfig(adamw_kernel="torch"), MuonConfig()], ids=str)
@pytest.mark.parametrize("place", ["cpu", GPU])
def test_steps_of_a_plain_loop_end_in_the_same_bits(place, optimizer):
    there, steps = torch.device(place), 5
    # on a CPU without units for bf16 the two loops differ in it by a last bit, of which the cause was not found
    precision = "bf16" if place == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"

    def final(graph):
        sizes = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 128, "num_layers": 2}
        module = training_module(steps=steps, sequences=4, optimizer=optimizer, **sizes)
        if place == "cuda":
            module.builder = replace(module.builder, ops=resolve(OpsConfig(**FAST)))
        module.construct(there)
        made = module.configure_optimizers()
        stepping = OptimizerStep(module.task, grad_clip=1.0, device=there, cuda_graph=graph)
        given = iter(batches(2, synthetic_sequences=4 * steps).train_dataloader())
        losses = []
        for number in range(1, steps + 1):
            of_step = [next(given).to(there) for _ in range(2)]
            stepping.take(module.model, made, of_step, 1e-2 / number, lambda: forward_context(precision, there))
            losses.append(float(stepping.sums[0]))
        return losses, module.model.state_dict()

    (losses, mine), (plain_losses, plain) = final(True), final(False)
    assert losses == plain_losses
    assert [name for name in mine if not torch.equal(mine[name], plain[name])] == []


@pytest.mark.parametrize("fault", ["a rate of the host", "an input that is not copied"])
def test_what_a_graph_would_keep_for_ever_is_found(tmp_path, monkeypatch, fault):
    class Baked(pl.Callback):
        def on_train_start(self, trainer, module):
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = float(group["lr"])

    plain = fit(tmp_path / "plain", graph=False)
    callbacks = [Baked()] if fault == "a rate of the host" else []
    if not callbacks:
        tensors = cuda_graph._tensors
        monkeypatch.setattr(cuda_graph, "_tensors", lambda batch: {"tokens": tensors(batch)["tokens"]})
    with pytest.raises(AssertionError):
        assert_same(fit(tmp_path / "mine", graph=True, callbacks=callbacks), plain)


def recorded_by_hand(changed=lambda loss: loss):
    """A micro-batch of two sequences, and a function that takes the loss of a batch in the step that has begun."""
    module = training_module(steps=STEPS, sequences=2)
    module.construct(CPU)
    graphs, optimizer = cuda_graph.StepGraphs(CPU), module.configure_optimizers()

    def compute(batch):
        return changed(module.task.loss(module.model, batch))

    def step(batch, factor=1.0):
        with torch.autocast("cpu", torch.bfloat16):
            loss = graphs.loss(compute, module.model, batch)
        module.model.zero_grad()
        (factor * loss).backward()
        graphs.finish(optimizer, lambda: None)
        return module.model.head.weight.grad.clone()

    return next(iter(batches(2).train_dataloader())), step


def test_a_replayed_backward_pass_takes_the_gradient_of_the_loss_and_no_autocast():
    under = []

    def watched(loss):
        loss.register_hook(lambda _: under.append(torch.is_autocast_enabled("cpu")))
        return loss

    batch, step = recorded_by_hand(watched)
    alone = step(batch, 1.0)
    assert torch.equal(step(batch, 4.0), 4.0 * alone)  # the second is replayed
    assert len(under) > 2
    assert not any(under)


def test_a_batch_of_another_shape_is_refused():
    batch, step = recorded_by_hand()
    for _ in range(2):
        step(batch)
    with pytest.raises(ValueError, match=r"got a batch of .*\(3, 8\).*expected.*\(2, 8\).*cuda_graph=false"):
        step(next(iter(batches(3).train_dataloader())))


def test_a_host_that_waits_is_refused():
    batch, step = recorded_by_hand(lambda loss: loss if loss.item() else -loss)
    step(batch)
    with pytest.raises(ValueError, match=r"cannot be recorded \(operation not permitted.*cuda_graph=false"):
        step(batch)
