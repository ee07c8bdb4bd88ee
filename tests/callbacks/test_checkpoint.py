"""When checkpoints are written, what they hold, and that a resume from any of them ends in the same bits."""

import itertools
import json
import threading

import lightning.pytorch as pl
import pytest
import torch

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.training.budget import TokenBudget
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.checkpoint import state
from litespark.training.checkpoint.folder import CheckpointError, find
from litespark.training.module import NonFiniteError
from litespark.training.optim import AdamWConfig, MuonConfig
from tests.checkpoints import state_in
from tests.training.small_runs import LENGTH, Planted, batches, small_run, training_module

OPTIMIZERS = {"fused": AdamWConfig(lr=1e-2), "unfused": AdamWConfig(lr=1e-2, fused=False), "muon": MuonConfig(lr=1e-2)}


def saving_run(
    folder,
    *,
    every,
    keep=9,
    at_end=True,
    steps=6,
    task=None,
    optimizer="fused",
    sequences=4,
    sizes=None,
    best=None,
    best_is="lowest",
    in_background=False,
    **settings,
):
    folder.mkdir(exist_ok=True)
    phases = Phases()
    about = {"run": "mine", "model": {"hidden_size": 8}}
    saver = Checkpointer(
        folder / "checkpoints", every_steps=every, at_end=at_end, keep=keep, best=best, best_is=best_is, about=about,
        phases=phases, in_background=in_background,
    )  # fmt: skip
    module = training_module(
        steps=steps, sequences=sequences, task=task, optimizer=OPTIMIZERS[optimizer], **(sizes or {})
    )
    return small_run(folder, module, **{"accumulate": 2, **settings}, phases=phases, callbacks=[saver])


@pytest.mark.parametrize(
    "every, keep, at_end, expected",
    [(None, 9, True, [6]), (4, 9, True, [4, 6]), (1, 2, True, [5, 6]), (None, 9, False, []), (4, 9, False, [4])],
)
def test_checkpoints_come_at_the_interval_and_at_the_end_and_say_what_they_are_of(
    tmp_path, every, keep, at_end, expected
):
    run = saving_run(tmp_path, every=every, keep=keep, at_end=at_end)
    run.trainer.fit(run.module, batches(2))
    assert [path.name for path in sorted(tmp_path.glob("checkpoints/*"))] == [f"step-{step:08d}" for step in expected]
    for step in expected[-1:]:
        about = {"run": "mine", "model": {"hidden_size": 8}, "tokens": step * 4 * LENGTH, "world_size": 1}
        assert find(tmp_path).about == about


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_resume_from_any_step_ends_in_the_same_bits(tmp_path, step, optimizer):
    # three sequences an epoch: every step crosses the end of one; validation falls on steps 2 and 4
    data = {"training_sequences": 3}
    bad = {"task": Planted(lambda micro_batch: micro_batch == 1)}  # the first step is skipped
    whole = saving_run(tmp_path / "whole", every=1, optimizer=optimizer, validate_every=2, **bad)
    whole.trainer.fit(whole.module, batches(2, **data))
    rest = saving_run(tmp_path / "rest", every=None, optimizer=optimizer, validate_every=2)
    state = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}"
    rest.trainer.fit(rest.module, batches(2, **data), ckpt_path=state, weights_only=True)
    torch.testing.assert_close(rest.module.model.state_dict(), whole.module.model.state_dict(), rtol=0, atol=0)
    ours, theirs = (state_in(tmp_path / name) for name in ("rest", "whole"))
    for each in (ours, theirs):
        counted = [each["litespark"][key] for key in ("tokens_seen", "steps_taken", "skipped_steps")]
        assert counted == [6 * 4 * LENGTH, 6, 1]
    (ours,), (theirs,) = ours["optimizer_states"], theirs["optimizer_states"]
    torch.testing.assert_close(ours["state"], theirs["state"], rtol=0, atol=0)


def test_checkpoints_in_the_background_hold_their_step_while_training_goes_on(tmp_path, monkeypatch):
    going_on, seen, write = threading.Event(), [], state.write_tensors

    def waits(path, tensors):
        assert going_on.wait(60)
        return write(path, tensors)

    def reached(micro_batch):
        if micro_batch == 2 * 3:  # the fourth step: the checkpoint of the second is being written
            seen.extend(path.name for path in (tmp_path / "back" / "checkpoints").iterdir())
            going_on.set()
        return False

    whole = saving_run(tmp_path / "whole", every=2)
    whole.trainer.fit(whole.module, batches(2))
    monkeypatch.setattr(state, "write_tensors", waits)
    back = saving_run(tmp_path / "back", every=2, in_background=True, task=Planted(reached))
    back.trainer.fit(back.module, batches(2))
    assert seen == [".unfinished-00000002"]
    for step in (2, 4, 6):
        ours, theirs = (state_in(tmp_path / of / "checkpoints" / f"step-{step:08d}") for of in ("back", "whole"))
        for part in ("state_dict", "optimizer_states"):
            torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
        assert ours["litespark"]["steps_taken"] == step


def test_an_error_in_the_background_ends_the_run_and_what_was_sealed_stays(tmp_path, monkeypatch):
    write = state.write_tensors

    def fails(path, tensors):
        if "00000004" in path.parent.name:
            raise OSError(28, "No space left on device")
        return write(path, tensors)

    monkeypatch.setattr(state, "write_tensors", fails)
    run = saving_run(tmp_path, every=2, in_background=True, steps=20)
    with pytest.raises(CheckpointError, match=r"of step 4 could not be written .*No space left"):
        run.trainer.fit(run.module, batches(2))
    assert run.module.steps_taken < 20
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_the_best_by_a_metric_of_the_validation_is_kept_and_an_unknown_one_is_an_error(tmp_path):
    run = saving_run(tmp_path, every=1, keep=1, validate_every=2, best="token_accuracy", best_is="highest")
    run.trainer.fit(run.module, batches(2))
    measured = metrics_in(tmp_path, "validation/token_accuracy")
    best = max(measured, key=measured.get)  # the earliest of them
    assert sorted(path.name for path in tmp_path.glob("checkpoints/step-*")) == [
        f"step-{step:08d}" for step in sorted({best, 6})
    ]
    stated = find(tmp_path / "checkpoints" / "best")
    assert (stated.step, stated.about["validation"]["token_accuracy"]) == (best, measured[best])
    other = saving_run(tmp_path / "other", every=1, validate_every=2, best="acuracy")
    with pytest.raises(ValueError, match=r"checkpoint_best: got acuracy, expected a metric .* token_accuracy"):
        other.trainer.fit(other.module, batches(2))


def metrics_in(folder, key):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row[key] for row in rows if key in row}


def position_in(folder):
    return state_in(folder)["SyntheticDataModule"]["sequences"]


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("micro_batch_size, accumulate, workers", [(1, 4, 0), (4, 1, 0), (1, 4, 1)])
def test_a_resume_with_another_micro_batch_takes_the_same_steps(tmp_path, micro_batch_size, accumulate, workers, step):
    whole = saving_run(tmp_path / "whole", every=1, validate_every=3)
    whole.trainer.fit(whole.module, batches(2, training_sequences=3))
    cut = saving_run(tmp_path / "cut", every=1, validate_every=3, accumulate=accumulate)
    state = tmp_path / "whole" / "checkpoints" / f"step-{step:08d}"
    data = batches(micro_batch_size, training_sequences=3, workers=workers)
    cut.trainer.fit(cut.module, data, ckpt_path=state, weights_only=True)
    # and once more, with the first micro-batch
    again = saving_run(tmp_path / "again", every=None, validate_every=3)
    state = tmp_path / "cut" / "checkpoints" / "step-00000005"
    again.trainer.fit(again.module, batches(2, training_sequences=3), ckpt_path=state, weights_only=True)
    for folder, first in ((tmp_path / "cut", step), (tmp_path / "again", 5)):
        for key in ("progress/tokens", "train/loss", "train/learning_rate", "validation/loss"):
            expected = {at: value for at, value in metrics_in(tmp_path / "whole", key).items() if at > first}
            assert metrics_in(folder, key) == pytest.approx(expected, rel=1e-5), key
        assert position_in(folder) == position_in(tmp_path / "whole") == 6 * 4
    assert cut.trainer.global_step == again.trainer.global_step == 6


@pytest.mark.parametrize("sequences, accumulate, steps", [(2, 1, 9), (8, 4, 5), (16, 8, 4)])
def test_a_resume_with_another_global_batch_spends_what_is_left_of_the_tokens(tmp_path, sequences, accumulate, steps):
    tokens = 6 * 4 * LENGTH - 1
    whole = saving_run(tmp_path / "whole", every=3)
    whole.module.budget = TokenBudget(4 * LENGTH, tokens=tokens)
    whole.trainer.fit(whole.module, batches(2))
    assert whole.module.steps_taken == 6
    other = saving_run(tmp_path / "other", every=None, validate_every=1, sequences=sequences, accumulate=accumulate)
    other.module.budget = TokenBudget(sequences * LENGTH, tokens=tokens)
    state = tmp_path / "whole" / "checkpoints" / "step-00000003"
    other.trainer.fit(other.module, batches(2), ckpt_path=state, weights_only=True)
    seen = list(metrics_in(tmp_path / "other", "progress/tokens").values())
    assert [b - a for a, b in itertools.pairwise(seen)] == [sequences * LENGTH] * (steps - 3)
    assert tokens <= seen[-1] < tokens + sequences * LENGTH
    assert (other.module.steps_taken, position_in(tmp_path / "other")) == (steps, seen[-1] // LENGTH)
    assert list(metrics_in(tmp_path / "other", "validation/loss")) == list(range(3, steps + 1))
    assert metrics_in(tmp_path / "other", "train/learning_rate")[steps] == pytest.approx(0.1 * 1e-2)


@pytest.mark.parametrize("where", ["weight", "state"])
def test_weights_that_are_not_finite_are_never_sealed(tmp_path, where):
    class Plant(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if pl_module.steps_taken == 4:
                *_, last = pl_module.model.parameters()
                planted = last if where == "weight" else trainer.optimizers[0].state[last]["exp_avg_sq"]
                planted.data.view(-1)[1] = float("nan") if where == "weight" else float("inf")

    run = saving_run(tmp_path, every=2)
    run.trainer.callbacks.insert(0, Plant())
    named = {"weight": r"not finite \(head", "state": r"not finite \(exp_avg_sq of head"}[where]
    with pytest.raises(NonFiniteError, match=f"after step 4 .*{named}.*earlier ones are untouched.*optim.lr=0.001$"):
        run.trainer.fit(run.module, batches(2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert find(tmp_path).step == 2


def test_the_rows_of_the_steps_that_a_checkpoint_holds_are_on_disk_with_it(tmp_path):
    # a process that is killed as its fifth step begins finalises nothing
    run = saving_run(tmp_path, every=2, task=Planted(lambda micro_batch: micro_batch == 8 and 1 / 0))
    run.metrics.finalize = lambda status: None
    with pytest.raises(ZeroDivisionError):
        run.trainer.fit(run.module, batches(2))
    written = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert find(tmp_path).step == 4
    assert written == [1, 2, 3, 4]


def test_the_room_that_is_asked_for_is_more_than_a_checkpoint_takes(tmp_path, monkeypatch):
    asked, begin = [], checkpoint_folder.begin
    monkeypatch.setattr(checkpoint_folder, "begin", lambda *given: asked.append(given[2]) or begin(*given))
    # large enough for tensors to outweigh the rest
    run = saving_run(tmp_path, every=None, steps=1, sizes={"hidden_size": 128, "intermediate_size": 256})
    run.trainer.fit(run.module, batches(2))
    size = sum(path.stat().st_size for path in find(tmp_path).folder.iterdir())
    assert size <= asked[0] <= 1.2 * size


# ------------------------------------------------------------------ phases


def test_listeners_hear_of_changes_only_and_a_phase_ends_also_when_its_block_raises():
    phases, heard = Phases(), []
    phases.listen(lambda before, after: heard.append((before, after)))
    phases.enter("idle")
    phases.enter("train")
    phases.enter("train")
    with pytest.raises(ZeroDivisionError), phases.during("checkpoint"):
        heard.append(1 / 0)
    assert heard == [("idle", "train"), ("train", "checkpoint"), ("checkpoint", "train")]
