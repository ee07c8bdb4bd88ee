"""Training ends at the first validation that reaches the target, and what that took is told, also over a resume."""

import pytest

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.cost_of_quality import CostOfQuality
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.run.record import TargetRecord
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.module import TrainingModule
from tests.callbacks.fake_time import TimedTask, metered, rows_of
from tests.training.small_runs import LENGTH, batches, small_run, training_module

WATTS = 100.0
TOKENS = 2 * LENGTH
# of a step, and of a validation: three batches
STEP, VALIDATION = 1.0, 3 * 7.0
# bits per byte after so many steps
FALLING = {step: 4 - step / 4 for step in range(100)}


class Run:
    """A run whose validations come out as told, with the callbacks in the order that every run has."""

    def __init__(self, folder, clock, *, target, steps=12, every=2, meter=None, bits=FALLING, checkpoint_every=None):
        folder.mkdir(exist_ok=True)
        phases = Phases()
        energy = metered(folder, clock, phases, meter=meter)
        saver = Checkpointer(folder / "checkpoints", every_steps=checkpoint_every, keep=9, about={}, phases=phases)
        self.module = training_module(steps=steps, sequences=2, task=TimedTask(clock, [STEP], validation=7.0))
        self.module.validate = self._validate
        self.bits = bits
        self.validated = []
        small = small_run(folder, self.module, validate_every=every, phases=phases, callbacks=[energy, saver])
        self.quality = CostOfQuality(
            target=None if target is None else TargetRecord(target),
            throughput=small.throughput,
            energy=energy,
            checkpointer=saver,
        )
        small.trainer.callbacks.append(self.quality)
        self.small = clock.drive(small)

    def _validate(self, batches):
        step = self.module.steps_taken
        TrainingModule.validate(self.module, batches)
        self.validated.append(step)
        self.module.validation = {names.VALIDATION_BITS_PER_BYTE: self.bits[step]}
        self.module.validated_at = step

    def fit(self, **settings):
        self.small.trainer.fit(self.module, batches(2), **settings)
        return self

    def rows(self):
        return {row["step"]: row for row in rows_of(self.small) if names.VALIDATION_BITS_PER_BYTE in row}


def test_training_ends_at_the_first_validation_at_or_below_the_target(tmp_path, clock):
    run = Run(tmp_path, clock, target=FALLING[6]).fit()
    assert run.validated == [2, 4, 6]
    assert run.module.steps_taken == 6
    reached = run.quality.target.reached
    assert (reached.step, reached.tokens, reached.bits_per_byte) == (6, 6 * TOKENS, FALLING[6])
    assert (reached.train_seconds, reached.train_joules) == pytest.approx((6 * STEP, 6 * STEP * WATTS))
    assert reached.all_in_joules == pytest.approx((6 * STEP + 3 * VALIDATION) * WATTS)
    assert checkpoint_folder.find(tmp_path).step == 6


def test_every_validation_is_logged_with_what_it_took_also_without_a_target(tmp_path, clock):
    run = Run(tmp_path, clock, target=None, steps=4).fit()
    assert run.quality.target is None
    assert run.module.steps_taken == 4
    rows = run.rows()
    assert [row[names.TRAIN_SECONDS] for row in rows.values()] == pytest.approx([2 * STEP, 4 * STEP])
    assert [row[names.TRAIN_JOULES] for row in rows.values()] == pytest.approx([2 * STEP * WATTS, 4 * STEP * WATTS])
    assert [row[names.PROGRESS_TOKENS] for row in rows.values()] == [2 * TOKENS, 4 * TOKENS]


def test_nan_reaches_nothing_and_a_target_that_is_missed_leaves_the_run_to_its_budget(tmp_path, clock):
    run = Run(tmp_path, clock, target=0.1, steps=5, bits={2: float("nan"), 4: 1.0}).fit()
    assert run.module.steps_taken == 5
    assert run.quality.target.bits_per_byte == 0.1
    assert not run.quality.reached


def test_a_validation_that_was_left_out_is_made_up_for_before_the_next_step(tmp_path, clock):
    Run(tmp_path, clock, target=None, steps=4, every=None).fit()
    run = Run(tmp_path, clock, target=FALLING[4])
    run.fit(ckpt_path=checkpoint_folder.find(tmp_path).folder, weights_only=True)
    assert (run.validated, run.module.steps_taken) == ([4], 4)
    assert run.quality.target.reached.train_seconds == pytest.approx(4 * STEP)


def test_the_checkpoint_of_a_step_holds_its_validation_which_no_resume_repeats(tmp_path, clock):
    killed = Run(tmp_path, clock, target=None, checkpoint_every=2)
    kept = killed.module.validate
    killed.module.validate = lambda batches: 1 / 0 if killed.module.steps_taken == 4 else kept(batches)
    with pytest.raises(ZeroDivisionError):
        killed.fit()
    checkpoint = checkpoint_folder.find(tmp_path)
    assert checkpoint.step == 2
    run = Run(tmp_path, clock, target=None, steps=6)
    run.fit(ckpt_path=checkpoint.folder, weights_only=True)
    assert run.validated == [4, 6]
    assert sorted(run.rows()) == [2, 4, 6]


def test_what_was_reached_before_a_resume_is_found_again_and_a_lower_target_trains_on(tmp_path, clock):
    first = Run(tmp_path, clock, target=FALLING[4]).fit()
    state = checkpoint_folder.find(tmp_path).folder
    again = Run(tmp_path, clock, target=FALLING[4])
    again.fit(ckpt_path=state, weights_only=True)
    assert again.module.steps_taken == 4
    assert again.quality.target.reached.tokens == first.quality.target.reached.tokens
    clock.now += 500
    lower = Run(tmp_path, clock, target=FALLING[8])
    lower.fit(ckpt_path=state, weights_only=True)
    reached = lower.quality.target.reached
    assert (lower.validated, reached.step, reached.tokens) == ([6, 8], 8, 8 * TOKENS)
    assert (reached.train_seconds, reached.train_joules) == pytest.approx((8 * STEP, 8 * STEP * WATTS))


def test_all_ranks_stop_where_one_of_them_does(tmp_path, clock):
    run = Run(tmp_path, clock, target=0.1)
    # the other rank has reached it at step 4
    run.module.mesh.any = lambda value: value or run.module.steps_taken == 4
    run.fit()
    assert run.module.steps_taken == 4
