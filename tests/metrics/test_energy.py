"""What counters say is booked to the right phase, in integers, and what is missing is said."""

import json
from dataclasses import asdict

import pytest

from litespark.metrics.energy import PHASES, Account, EnergyJournal, EnergyTotals, resumed_totals
from litespark.metrics.energy_by_phase import EnergyByPhase, MeteredDevice, energy_section
from litespark.metrics.meters import NullMeter
from litespark.metrics.records.base import parse
from litespark.run.record import EnergyRecord, PhaseJoules
from tests.metrics.fake_meter import FakeMeter
from tests.properties import given, settings, st


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(clock, watts=(100.0,), cap=None, phase="train"):
    meter = FakeMeter(watts, clock, power_cap_watts=cap)
    energy = EnergyByPhase(meter)
    energy.switch(phase)
    return meter, energy


def pass_by(clock, energy, seconds, tokens=0):
    clock.now += seconds
    energy.add_tokens(tokens)
    energy.book()


def test_each_phase_gets_the_energy_that_was_used_in_it_and_start_up_is_idle(clock):
    energy = EnergyByPhase(FakeMeter([100.0, 50.0], clock))
    clock.now += 2
    for phase, seconds in (("train", 4), ("evaluate", 2), ("train", 3), ("checkpoint", 1), ("idle", 5)):
        energy.switch(phase)
        clock.now += seconds
    energy.book()
    by_phase = {phase: energy.totals.joules(phase) for phase in PHASES}
    assert by_phase == {
        "train": 1050.0,
        "evaluate": 300.0,
        "checkpoint": 150.0,
        "idle": 1050.0,
        "reference": 0.0,
        "rollout": 0.0,
        "reward": 0.0,
    }
    assert (energy.totals.all_in_joules, energy.totals.coverage) == (2550.0, 1.0)


@pytest.mark.parametrize("joules", [-400.0, -1e7, 5000.0])
def test_a_negative_or_impossible_difference_is_dropped_and_counted(clock, joules):
    meter, energy = make(clock, [100.0], cap=200.0)
    pass_by(clock, energy, 2)
    meter.offset[0] += joules  # a counter reset, or a wild value above 200 W × 2 s
    pass_by(clock, energy, 2)
    pass_by(clock, energy, 2)
    assert energy.totals.dropped_readings == 1
    assert energy.totals.train.millijoules == 400_000, "the two good intervals, nothing of the bad one"
    assert energy.totals.coverage == pytest.approx(4 / 6)
    assert energy.totals.train_joules is None, "a third of the time is missing: that is not a sum"
    pass_by(clock, energy, 2000)
    assert energy.totals.train_joules == 200_400, "in a long run it does not matter"


def test_a_short_interval_may_hold_what_a_slow_counter_owed(clock):
    meter, energy = make(clock, [100.0], cap=200.0)
    meter.offset[0] += 15.0  # the counter catches up 0.1 s at once
    pass_by(clock, energy, 0.01)
    assert energy.totals.dropped_readings == 0


def test_a_lost_device_shows_in_the_coverage_and_never_as_half_the_energy_and_its_gap_is_credited_to_none(clock):
    meter, energy = make(clock, [100.0, 100.0])
    pass_by(clock, energy, 10, tokens=100)
    assert energy.window()[1].joules_per_token_train == pytest.approx(20.0)
    energy.begin_window()
    meter.lost[1] = True
    pass_by(clock, energy, 10, tokens=100)
    seconds, totals = energy.window()
    assert (seconds, totals.joules_per_token_train, totals.all_in_joules, totals.coverage) == (10, None, None, 0.5)
    assert (energy.totals.train_joules, energy.totals.joules_per_token_all_in) == (None, None)
    for lost in ([True, True], [True, False], [True, False]):
        meter.lost = lost
        pass_by(clock, energy, 10)
    assert energy.totals.train == Account(4_000_000, 40_000_000, 100_000_000)


def test_a_blind_rank_lowers_the_coverage_and_one_whose_devices_another_reads_does_not(clock):
    (_, first), (_, second), (blind_meter, blind) = make(clock), make(clock, [50.0]), make(clock, [75.0])
    blind_meter.lost[0] = True
    blind.book()
    other = EnergyByPhase(NullMeter("the CPU packages are read by local rank 0", "CPU package energy"))
    for energy in (first, second, blind, other):
        energy.switch("train")
    clock.now += 10
    for energy in (first, second, blind, other):
        energy.add_tokens(30)
        energy.book()
    seeing = first.totals + second.totals + other.totals
    assert (seeing.train_joules, seeing.tokens, seeing.coverage) == (1500.0, 90, 1.0)
    everyone = seeing + blind.totals
    assert (everyone.train.millijoules, everyone.coverage) == (1_500_000, pytest.approx(2 / 3))
    assert everyone.train_joules is None


accounts = st.builds(Account, *[st.integers(0, 2**50)] * 3)
some_totals = st.builds(
    EnergyTotals,
    **dict.fromkeys((*PHASES, "lost"), accounts),
    tokens=st.integers(0, 2**50),
    dropped_readings=st.integers(0, 2**20),
)


@settings(deadline=None, derandomize=True)
@given(some_totals, some_totals)
def test_vectors_and_dicts_carry_totals_exactly(left, right):
    summed = [a + b for a, b in zip(left.to_vector(), right.to_vector(), strict=True)]
    assert EnergyTotals.from_vector(summed) == left + right
    assert parse(EnergyTotals, asdict(left)) == parse(EnergyTotals, json.dumps(asdict(left))) == left
    assert (left + right) - right == left
    with pytest.raises(ValueError, match=r"tokens: got 1\.5"):
        parse(EnergyTotals, asdict(left) | {"tokens": 1.5})


def test_a_resume_continues_and_joules_of_lost_steps_stay_in_all_in_and_out_of_train(clock, tmp_path):
    journal = EnergyJournal(tmp_path / "energy.jsonl")
    _, first = make(clock)
    pass_by(clock, first, 10, tokens=100)
    saved = first.totals
    pass_by(clock, first, 6, tokens=60)  # burnt after the checkpoint, then killed
    journal.append(first.totals, "2026-01-31T12:00:00+00:00")

    _, second = make(clock, phase="idle")
    clock.now += 3  # start-up of the new process, before the checkpoint is loaded
    second.resume(saved, EnergyJournal(tmp_path / "energy.jsonl").last())
    assert (second.totals.train_joules, second.totals.tokens, second.totals.joules("idle")) == (1000.0, 100, 300.0)
    assert (second.totals.all_in_joules, second.totals.coverage) == (1900.0, 1.0)
    second.switch("train")
    pass_by(clock, second, 2, tokens=20)
    assert second.window()[1].tokens == 20, "the saved tokens are not part of the new window"
    journal.append(second.totals, "2026-01-31T12:01:00+00:00")

    _, third = make(clock)
    third.resume(saved, journal.last())  # killed again before the next checkpoint
    assert third.totals.train_joules == 1000.0
    assert third.totals.all_in_joules == 2100.0, "what was lost before is not counted twice"


def test_losses_of_several_crashes_add_up_and_an_older_journal_takes_nothing_away():
    checkpoint = EnergyTotals(train=Account(500, 10, 10), lost=Account(100, 2, 2))
    journaled = EnergyTotals(train=Account(570, 12, 12), lost=Account(100, 2, 2), dropped_readings=3)
    resumed = resumed_totals(checkpoint, journaled)
    assert (resumed.train, resumed.lost, resumed.dropped_readings) == (checkpoint.train, Account(170, 4, 4), 3)
    assert resumed_totals(checkpoint, EnergyTotals(train=Account(300, 6, 6))) == checkpoint


def test_the_section_of_the_record_holds_totals_and_averages(clock):
    meter, energy = make(clock, [100.0, 60.0], phase="idle")
    clock.now += 5
    energy.switch("train")
    pass_by(clock, energy, 10, tokens=400)
    assert energy_section(energy.totals, meter, train_seconds=10.0, examples=64) == EnergyRecord(
        "GPU board energy", "fake counter", None, 1.0, 1600.0, 2400.0,
        PhaseJoules(1600.0, 0.0, 0.0, 800.0, 0.0, 0.0, 0.0),
        joules_per_token_train=4.0, joules_per_token_all_in=6.0, joules_per_example=25.0, average_power_watts=160.0,
        tokens_per_second_per_watt=400 / 10 / 160,
    )  # fmt: skip
    blind = NullMeter("no driver", "GPU board energy", [MeteredDevice("a", "GPU")])
    totals = EnergyTotals(train=Account(0, 0, 10**7), tokens=5)
    assert energy_section(totals, blind, 10.0) == EnergyRecord("GPU board energy", None, "no driver", 0.0)


def test_half_a_line_at_the_end_of_the_journal_is_passed_over_and_written_past(tmp_path):
    journal = EnergyJournal(tmp_path / "energy.jsonl")
    assert journal.last() is None
    for tokens in (1, 2):
        journal.append(EnergyTotals(tokens=tokens), "t")
        with journal.path.open("a") as stream:
            stream.write('\n{"time": "t", "tot')
        assert journal.last() == EnergyTotals(tokens=tokens)


def test_a_journal_that_cannot_be_written_warns_once_and_does_not_stop_the_run(tmp_path, caplog):
    journal = EnergyJournal(tmp_path)  # a folder is in the way
    for _ in range(2):
        journal.append(EnergyTotals(), "t")
    (warning,) = caplog.messages
    assert "cannot write the energy journal" in warning
    assert journal.last() is None
