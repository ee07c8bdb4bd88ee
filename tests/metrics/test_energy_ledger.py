"""The ledger books what the counters say to the right phase, in integers, and says what is missing."""

import json

import pytest

from litespark.metrics.energy import EnergyLedger, MeteredDevice, energy_section
from litespark.metrics.energy_journal import EnergyJournal
from litespark.metrics.energy_totals import PHASES, Account, EnergyTotals, combine, resumed_totals
from litespark.metrics.meters import NullMeter
from tests.metrics.fake_meter import FakeMeter
from tests.properties import given, settings, st


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(clock, watts=(100.0,), cap=None, minimum=5.0):
    meter = FakeMeter(watts, clock, power_cap_watts=cap)
    return meter, EnergyLedger(meter, minimum)


def test_each_phase_gets_the_energy_that_was_used_in_it(clock):
    _, ledger = make(clock, [100.0, 50.0])
    for phase, seconds in (("train", 4), ("evaluate", 2), ("train", 3), ("checkpoint", 1), ("idle", 5)):
        ledger.switch(phase)
        clock.now += seconds
    ledger.settle()
    totals = ledger.totals
    assert {phase: totals.joules(phase) for phase in PHASES} == {
        "train": 1050.0,
        "evaluate": 300.0,
        "checkpoint": 150.0,
        "idle": 750.0,
    }
    assert totals.all_in_joules == 2250.0
    assert totals.coverage == 1.0


def test_start_up_is_idle(clock):
    _, ledger = make(clock)
    clock.now += 7
    assert ledger.switch("train") == "idle"
    assert ledger.totals.joules("idle") == 700.0


def test_a_phase_ends_also_when_its_block_raises(clock):
    _, ledger = make(clock)
    ledger.switch("train")

    def fail_while_saving():
        with ledger.during("checkpoint"):
            clock.now += 1
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_while_saving()
    assert ledger.phase == "train"
    assert ledger.totals.joules("checkpoint") == 100.0


def test_an_unknown_phase_is_refused(clock):
    _, ledger = make(clock)
    with pytest.raises(ValueError, match=r"phase: got 'validate', expected one of train, evaluate"):
        ledger.switch("validate")


def test_a_window_is_not_closed_before_the_minimum_age(clock):
    _, ledger = make(clock)
    ledger.switch("train")
    clock.now += 4.9
    ledger.add_tokens(49)
    assert ledger.close_window() is None
    clock.now += 0.1
    ledger.add_tokens(1)
    window = ledger.close_window()
    assert window is not None
    assert window.seconds == pytest.approx(5.0)
    assert window.totals.tokens == 50
    assert window.joules_per_token == pytest.approx(10.0)
    assert window.power_watts == pytest.approx(100.0)
    clock.now += 1
    assert ledger.close_window() is None, "the next window begins anew"


def test_evaluation_inside_a_window_is_not_charged_to_its_tokens(clock):
    _, ledger = make(clock)
    ledger.switch("train")
    clock.now += 5
    ledger.add_tokens(100)
    with ledger.during("evaluate"):
        clock.now += 20
    window = ledger.close_window()
    assert window is not None
    assert window.joules_per_token == pytest.approx(5.0)
    assert window.power_watts == pytest.approx(100.0)


@pytest.mark.parametrize("joules", [-400.0, -1e7, 5000.0])
def test_a_negative_or_impossible_difference_is_dropped_and_counted(clock, joules):
    meter, ledger = make(clock, [100.0], cap=200.0)
    ledger.switch("train")
    clock.now += 2
    ledger.settle()
    clock.now += 2
    meter.offset[0] += joules  # a counter reset, or a wild value above 200 W × 2 s
    ledger.settle()
    clock.now += 2
    ledger.settle()
    totals = ledger.totals
    assert totals.dropped_readings == 1
    assert totals.train.millijoules == 400_000, "the two good intervals, nothing of the bad one"
    assert totals.coverage == pytest.approx(4 / 6)
    assert totals.train_joules is None, "a third of the time is missing: that is not a sum"


def test_one_dropped_reading_in_a_long_run_leaves_the_sum_standing(clock):
    meter, ledger = make(clock, [100.0], cap=200.0)
    ledger.switch("train")
    for interval in range(1000):
        clock.now += 1
        meter.offset[0] -= 1e6 * (interval == 500)
        ledger.settle()
    assert ledger.totals.dropped_readings == 1
    assert ledger.totals.train_joules == pytest.approx(99_900)


def test_a_short_interval_may_hold_what_a_slow_counter_owed(clock):
    meter, ledger = make(clock, [100.0], cap=200.0)
    clock.now += 0.01
    meter.offset[0] += 15.0  # the counter catches up 0.1 s at once
    ledger.settle()
    assert ledger.totals.dropped_readings == 0


def test_a_meter_lost_in_the_run_gives_none_and_coverage_and_no_exception(clock):
    meter, ledger = make(clock, [100.0, 100.0])
    ledger.switch("train")
    clock.now += 10
    ledger.add_tokens(100)
    assert ledger.close_window().joules_per_token == pytest.approx(20.0)
    meter.lost = [True, True]
    clock.now += 10
    ledger.add_tokens(100)
    window = ledger.close_window()
    assert window.joules_per_token is None
    assert window.power_watts is None
    assert window.totals.coverage == 0.0
    assert ledger.totals.coverage == 0.5
    assert ledger.totals.train_joules is None
    assert ledger.totals.all_in_joules is None
    assert ledger.totals.joules_per_token_train is None


def test_one_lost_device_of_two_shows_in_the_coverage_and_never_as_half_the_energy(clock):
    meter, ledger = make(clock, [100.0, 100.0])
    meter.lost[1] = True
    ledger.switch("train")
    clock.now += 10
    ledger.add_tokens(10)
    ledger.settle()
    assert ledger.totals.coverage == pytest.approx(0.5)
    assert ledger.totals.joules_per_token_train is None


def test_a_device_that_comes_back_is_not_credited_with_its_gap(clock):
    meter, ledger = make(clock, [100.0])
    ledger.switch("train")
    meter.lost[0] = True
    clock.now += 10
    ledger.settle()
    meter.lost[0] = False
    clock.now += 10
    ledger.settle()
    clock.now += 10
    ledger.settle()
    assert ledger.totals.train.millijoules == 1_000_000
    assert ledger.totals.train.read_microseconds == 10_000_000


def test_without_a_meter_everything_is_none_and_nothing_is_zero():
    ledger = EnergyLedger(NullMeter("no driver", "GPU board energy", [MeteredDevice("a", "GPU")]))
    ledger.switch("train")
    ledger.add_tokens(5)
    ledger.settle()
    totals = ledger.totals
    assert [totals.joules(phase) for phase in PHASES] == [None] * 4
    assert (totals.all_in_joules, totals.joules_per_token_train, totals.joules_per_token_all_in) == (None, None, None)
    assert totals.tokens_per_second_per_watt is None
    assert totals.coverage in (0.0, None)


def test_ranks_are_summed_exactly_and_a_blind_rank_lowers_the_coverage(clock):
    ledgers = [make(clock, [100.0])[1], make(clock, [50.0])[1]]
    blind_meter = FakeMeter([75.0], clock)
    blind_meter.lost[0] = True
    ledgers.append(EnergyLedger(blind_meter))
    for ledger in ledgers:
        ledger.switch("train")
    clock.now += 10
    for ledger in ledgers:
        ledger.add_tokens(30)
        ledger.settle()
    seeing = combine(ledger.totals for ledger in ledgers[:2])
    everyone = combine(ledger.totals for ledger in ledgers)
    assert seeing.train_joules == 1500.0
    assert seeing.tokens == 60
    assert everyone.train.millijoules == 1_500_000
    assert everyone.coverage == pytest.approx(2 / 3)
    assert everyone.train_joules is None


def test_a_rank_that_reads_nothing_because_another_does_costs_no_coverage(clock):
    _, reader = make(clock, [100.0])
    other = EnergyLedger(NullMeter("the CPU packages are read by local rank 0", "CPU package energy"))
    reader.switch("train")
    other.switch("train")
    clock.now += 10
    for ledger in (reader, other):
        ledger.add_tokens(50)
        ledger.settle()
    both = combine([reader.totals, other.totals])
    assert both.coverage == 1.0
    assert both.joules_per_token_train == pytest.approx(10.0)


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
    assert EnergyTotals.from_vector(summed) == left + right == combine([right, left])
    assert EnergyTotals.from_dict(json.loads(json.dumps(left.to_dict()))) == left
    assert (left + right) - right == left
    assert all(type(amount) is int for amount in left.to_vector())


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"vector: got 3 amounts, expected 17"):
        EnergyTotals.from_vector([1, 2, 3])


def test_a_resume_continues_the_totals_and_keeps_its_own_start_up(clock):
    _, first = make(clock)
    first.switch("train")
    clock.now += 10
    first.add_tokens(100)
    state = json.loads(json.dumps(first.state_dict()))

    _, second = make(clock)
    clock.now += 3  # start-up of the new process, before the checkpoint is loaded
    second.load_state_dict(state)
    second.switch("train")
    clock.now += 10
    second.add_tokens(100)
    second.settle()
    assert second.totals.train_joules == 2000.0
    assert second.totals.joules("idle") == 300.0
    assert second.totals.joules_per_token_train == pytest.approx(10.0)
    assert second.window().totals.tokens == 100, "the saved tokens are not part of the new window"


def test_joules_of_lost_steps_stay_in_all_in_and_out_of_train(clock, tmp_path):
    journal = EnergyJournal(tmp_path / "energy.jsonl")
    _, first = make(clock)
    first.switch("train")
    clock.now += 10
    first.add_tokens(100)
    state = first.state_dict()
    clock.now += 6  # burnt after the checkpoint, then killed
    first.add_tokens(60)
    first.settle()
    journal.append(first.totals, "2026-01-31T12:00:00+00:00")

    _, second = make(clock)
    second.load_state_dict(state, EnergyJournal(tmp_path / "energy.jsonl").last())
    assert second.totals.train_joules == 1000.0
    assert second.totals.tokens == 100
    assert second.totals.all_in_joules == 1600.0
    assert second.totals.coverage == 1.0

    second.switch("train")
    clock.now += 2
    second.settle()
    journal.append(second.totals, "2026-01-31T12:01:00+00:00")
    _, third = make(clock)
    third.load_state_dict(state, journal.last())  # killed again before the next checkpoint
    assert third.totals.train_joules == 1000.0
    assert third.totals.all_in_joules == 1800.0, "what was lost before is not counted twice"


def test_a_journal_older_than_the_checkpoint_takes_nothing_away():
    checkpoint = EnergyTotals(train=Account(500, 10, 10), tokens=4)
    assert resumed_totals(checkpoint, EnergyTotals(train=Account(300, 6, 6))) == checkpoint
    assert resumed_totals(checkpoint, None) == checkpoint


def test_losses_of_several_crashes_add_up():
    checkpoint = EnergyTotals(train=Account(500, 10, 10), lost=Account(100, 2, 2))
    journaled = EnergyTotals(train=Account(570, 12, 12), lost=Account(100, 2, 2), dropped_readings=3)
    resumed = resumed_totals(checkpoint, journaled)
    assert resumed.train == checkpoint.train
    assert resumed.lost == Account(170, 4, 4)
    assert resumed.dropped_readings == 3


def test_the_section_of_the_record_holds_totals_and_averages(clock):
    meter, ledger = make(clock, [100.0, 60.0])
    clock.now += 5
    ledger.switch("train")
    clock.now += 10
    ledger.add_tokens(400)
    ledger.settle()
    section = energy_section(ledger.totals, meter, train_seconds=10.0)
    assert (section.label, section.method, section.reason) == ("GPU board energy", "fake counter", None)
    assert (section.train_joules, section.all_in_joules, section.phases.idle) == (1600.0, 2400.0, 800.0)
    assert section.phases.evaluate == 0.0
    assert section.joules_per_token_train == pytest.approx(4.0)
    assert section.joules_per_token_all_in == pytest.approx(6.0)
    assert section.average_power_watts == pytest.approx(160.0)
    assert section.tokens_per_second_per_watt == pytest.approx(400 / 10 / 160)
    assert section.coverage == 1.0


def test_the_section_of_a_blind_run_holds_the_reason_and_no_number():
    meter = NullMeter("no driver", "GPU board energy", [MeteredDevice("a", "GPU")])
    totals = EnergyTotals(train=Account(0, 0, 10**7), tokens=5)
    section = energy_section(totals, meter, train_seconds=10.0)
    assert (section.reason, section.coverage, section.method) == ("no driver", 0.0, None)
    numbers = [section.train_joules, section.all_in_joules, section.average_power_watts, section.joules_per_token_train]
    assert numbers == [None] * 4
    assert vars(section.phases) == dict.fromkeys(PHASES)


def test_half_a_line_at_the_end_of_the_journal_is_passed_over_and_written_past(tmp_path):
    path = tmp_path / "energy.jsonl"
    journal = EnergyJournal(path)
    assert journal.last() is None
    first, second = EnergyTotals(tokens=1), EnergyTotals(tokens=2)
    journal.append(first, "t")
    with path.open("a") as stream:
        stream.write('{"time": "t", "tot')
    assert journal.last() == first
    journal.append(second, "t")
    assert journal.last() == second
    assert len(path.read_text().splitlines()) == 3


def test_a_journal_that_cannot_be_written_warns_once_and_does_not_stop_the_run(tmp_path, caplog):
    journal = EnergyJournal(tmp_path)  # a folder is in the way
    journal.append(EnergyTotals(), "t")
    journal.append(EnergyTotals(), "t")
    assert len([record for record in caplog.records if "cannot write the energy journal" in record.message]) == 1
    assert journal.last() is None


def test_a_minimum_window_of_nothing_is_refused(clock):
    with pytest.raises(ValueError, match=r"minimum_window_seconds: got 0, expected more than 0"):
        EnergyLedger(FakeMeter([1.0], clock), 0)


def test_the_state_is_made_of_integers(clock):
    _, ledger = make(clock, [33.3])
    clock.now += 1 / 3
    state = ledger.state_dict()
    leaves = [leaf for value in state.values() for leaf in (value.values() if isinstance(value, dict) else [value])]
    assert {type(leaf) for leaf in leaves} == {int}
