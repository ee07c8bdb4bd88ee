"""Joules under a real Trainer with a fake meter: windows, phases, and what a resume carries on."""

import pytest

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.metrics.energy import EnergyJournal
from litespark.metrics.meters import NullMeter
from litespark.training.checkpoint import folder as checkpoint_folder
from tests.callbacks.fake_time import TimedTask, metered, rows_of
from tests.checkpoints import state_in
from tests.training.small_runs import LENGTH, batches, small_run, training_module

WATTS = 100.0
TOKENS = 2 * LENGTH  # of a step of two sequences


def metered_run(folder, clock, *, steps, log_every=1, every=None, minimum=5.0, meter=None, seconds=(1.0,), **settings):
    """A run that draws `WATTS` all the time, and its energy monitor."""
    folder.mkdir(exist_ok=True)
    phases = Phases()
    energy = metered(folder, clock, phases, meter=meter, minimum=minimum, log_every=log_every)
    saver = Checkpointer(folder / "checkpoints", every_steps=every, keep=9, about={}, phases=phases)
    module = training_module(steps=steps, sequences=2, task=TimedTask(clock, list(seconds), validation=7.0))
    callbacks = [energy] if every is None else [energy, saver]
    run = small_run(folder, module, log_every=log_every, phases=phases, callbacks=callbacks, **settings)
    return clock.drive(run), energy


def test_joules_per_token_are_logged_once_a_window_is_old_enough(tmp_path, clock):
    run, energy = metered_run(tmp_path, clock, steps=12, log_every=2, minimum=5.0)
    clock.now += 30  # start-up
    run.trainer.fit(run.module, batches(2))
    rows = rows_of(run)
    assert [row["step"] for row in rows if names.JOULES_PER_TOKEN in row] == [6, 12]
    assert [row["step"] for row in rows if names.POWER_WATTS in row] == [6, 12]
    for row in rows:
        assert row.get(names.JOULES_PER_TOKEN, WATTS / TOKENS) == pytest.approx(WATTS / TOKENS)
        assert row.get(names.POWER_WATTS, WATTS) == pytest.approx(WATTS)
        assert row[names.TRAIN_JOULES] == pytest.approx(WATTS * row["step"])
        assert row[names.ALL_IN_JOULES] == pytest.approx(WATTS * (row["step"] + 30))
    assert energy.totals.tokens == 12 * TOKENS


def test_each_phase_is_booked_on_its_own(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(checkpoint_folder, "seal", clock.slowed(checkpoint_folder.seal, 3))
    run, energy = metered_run(tmp_path, clock, steps=4, every=2, validate_every=2)
    clock.now += 11
    run.trainer.fit(run.module, batches(2))
    totals = energy.sum_over_ranks(run.module)
    assert totals.joules("train") == pytest.approx(4 * WATTS)
    assert totals.joules("checkpoint") == pytest.approx(2 * 3 * WATTS)
    assert totals.joules("evaluate") == pytest.approx(2 * 3 * 7 * WATTS)
    assert totals.joules("idle") == pytest.approx(11 * WATTS)
    assert totals.all_in_joules == pytest.approx((clock.now - 1000) * WATTS)


def test_what_cannot_be_read_is_absent_and_training_goes_on(tmp_path, clock):
    run, energy = metered_run(tmp_path, clock, steps=3, minimum=0.5, meter=NullMeter("no counter here", "CPU energy"))
    run.trainer.fit(run.module, batches(2))
    assert run.module.steps_taken == 3
    assert not any(key.startswith("energy/") for row in rows_of(run) for key in row)
    assert not (tmp_path / "energy.jsonl").exists()
    assert energy.totals.train_joules is None


def test_a_resume_carries_the_joules_on_and_keeps_those_of_lost_steps_in_all_in(tmp_path, clock):
    run, _ = metered_run(tmp_path, clock, steps=10, every=4)
    clock.now += 20
    step = run.module.training_step
    run.module.training_step = lambda *given: 1 / 0 if run.module.steps_taken == 7 else step(*given)
    with pytest.raises(ZeroDivisionError):
        run.trainer.fit(run.module, batches(2))
    assert clock.now == 1027

    clock.now += 500  # nobody meters a machine without a run
    resumed, energy = metered_run(tmp_path, clock, steps=10, every=4)
    clock.now += 5
    state = checkpoint_folder.find(tmp_path).folder
    saved = state_in(state)["litespark_energy"]
    assert saved["train"]["millijoules"] == 4 * WATTS * 1000
    resumed.trainer.fit(resumed.module, batches(2), ckpt_path=state, weights_only=True)
    totals = energy.sum_over_ranks(resumed.module)
    assert totals.train_joules == pytest.approx(10 * WATTS)
    assert totals.joules_per_token_train == pytest.approx(WATTS / TOKENS)
    assert totals.lost.joules == pytest.approx(3 * WATTS)
    assert totals.joules("idle") == pytest.approx(25 * WATTS)
    assert totals.all_in_joules == pytest.approx((20 + 7 + 5 + 6) * WATTS)
    # the journal of the resumed run goes on from there
    assert EnergyJournal(tmp_path / "energy.jsonl").last().all_in_joules == pytest.approx(38 * WATTS)
