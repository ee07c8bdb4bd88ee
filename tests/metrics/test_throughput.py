"""Throughput divides what was counted by the time it took, on a clock that the tests turn by hand."""

import json
import statistics
from dataclasses import asdict

import pytest

from litespark.metrics.throughput import Throughput, ThroughputMeter, shared_machine
from tests.properties import given, settings, st


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run_steps(meter, clock, durations, tokens=10, known=True, wait=0.0):
    for duration in durations:
        clock.now += duration
        meter.add_step(tokens, tokens * 3, duration if known else None, wait)


def test_a_window_divides_counted_tokens_by_elapsed_time(clock):
    meter = ThroughputMeter(warmup_steps=0, clock=clock)
    meter.start()
    run_steps(meter, clock, [1.0, 2.0, 5.0], wait=0.5)
    clock.now += 2.0
    window = meter.close_window()
    expected = Throughput(3, 30, 10.0, 3.0, attention_pairs_per_token=3.0, data_wait_share=0.15, devices=1.0,
                          step_ms_median=2000.0, step_ms_p95=4700.0)  # fmt: skip
    assert asdict(window) == pytest.approx(asdict(expected))


def test_warm_up_steps_stay_out_of_step_times_and_rates_but_in_the_totals(clock):
    meter = ThroughputMeter(warmup_steps=2, clock=clock)
    meter.start()
    run_steps(meter, clock, [50.0, 20.0])
    first = meter.close_window()
    run_steps(meter, clock, [1.0] * 4)
    meter.close_window()
    summary = meter.summary()
    short = ThroughputMeter(warmup_steps=5, clock=clock)
    short.start()
    run_steps(short, clock, [2.0])
    short.close_window()
    assert short.summary().tokens_per_second == pytest.approx(5.0), "a run of nothing but warm-up has a rate"
    assert first.step_ms_median is short.summary().step_ms_median is None
    assert first.tokens_per_second == pytest.approx(20 / 70)
    assert (summary.tokens, summary.train_seconds, summary.tokens_per_second) == (60, 74.0, 10.0)
    assert summary.step_ms_median == pytest.approx(1000.0, rel=0.005)


def test_pauses_are_not_training_time(clock):
    meter = ThroughputMeter(warmup_steps=0, clock=clock)
    meter.start()
    run_steps(meter, clock, [1.0])
    meter.pause()
    meter.pause()
    clock.now += 100.0
    meter.start()
    meter.start()
    run_steps(meter, clock, [1.0])
    assert meter.close_window().train_seconds == pytest.approx(2.0)
    clock.now += 3.0
    meter.pause()
    assert meter.close_window().train_seconds == pytest.approx(3.0), "the clock runs on into the next window"
    clock.now += 5.0
    assert meter.close_window().train_seconds == 0.0, "and stands still there where it stood"


def test_steps_of_unknown_duration_are_in_no_quantile_and_in_every_rate(clock):
    meter = ThroughputMeter(warmup_steps=0, clock=clock)
    meter.start()
    run_steps(meter, clock, [1.0, 3.0], known=False)
    for found in (meter.close_window(), meter.summary()):
        assert (found.step_ms_median, found.step_ms_p95, found.tokens_per_second) == (None, None, 5.0)
    empty = ThroughputMeter(clock=clock).close_window()
    assert (empty.tokens_per_second, empty.attention_pairs_per_token, empty.data_wait_share) == (None, None, None)


def test_a_resumed_meter_goes_on_from_the_saved_totals_also_on_other_devices(clock):
    whole, resumed = (ThroughputMeter(warmup_steps=0, clock=clock) for _ in range(2))
    whole.devices = 2
    whole.start()
    run_steps(whole, clock, [1.0, 2.0, 3.0], wait=0.25)
    whole.close_window()
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    whole.devices = 1
    resumed.start()
    for meter in (whole, resumed):
        meter.start()
        run_steps(meter, clock, [4.0, 5.0], wait=0.25)
        meter.close_window()
        meter.pause()
        clock.now -= 9.0
    assert resumed.summary() == whole.summary()
    assert resumed.summary().devices == pytest.approx((2 * 6 + 9) / 15)
    for state in ({}, whole.state_dict() | {"all": {"stages": 3}}):
        with pytest.raises(ValueError, match=r"throughput: got .* expected .* of this version"):
            resumed.load_state_dict(state)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=40))
def test_the_run_median_is_within_half_a_per_cent_of_a_step_at_the_middle(durations):
    clock = Clock()
    meter = ThroughputMeter(warmup_steps=0, clock=clock)
    meter.start()
    run_steps(meter, clock, durations)
    meter.close_window()
    low, high = statistics.median_low(durations) * 1e3, statistics.median_high(durations) * 1e3
    assert low * 0.995 <= meter.summary().step_ms_median <= high * 1.005


def test_step_times_far_apart_tell_of_other_programs():
    assert shared_machine(190.0, 380.0, 500, 0.003) == 2.0
    assert shared_machine(190.0, 211.0, 500, 0.003) is None, "a machine of its own"
    assert shared_machine(190.0, 900.0, 19, 0.003) is None, "the percentile is one step, say one that compiled"
    assert shared_machine(190.0, 900.0, 500, 0.4) is None, "the data was late"
    assert shared_machine(None, None, 500, None) is None
