"""The time left follows the last minute of training, with pauses at their share."""

import pytest

from litespark.metrics.time_left import TimeLeft


def test_it_is_that_of_the_last_minute_not_of_the_whole_run():
    left = TimeLeft(0, now=1000.0)
    assert left.seconds(5000) is None
    for step in range(1, 101):  # 10 tokens/s at first
        left.step(10 * step, 1000.0 + step)
    for step in range(1, 61):  # then 100
        left.step(1000 + 100 * step, 1100.0 + step)
        left.step(1000 + 100 * step, 1100.5 + step)  # within a step nothing changes
    assert left.seconds(5000) == pytest.approx(50.0, rel=0.02)


def test_steps_longer_than_a_minute_and_those_of_a_resumed_process_have_one_too():
    left = TimeLeft(90_000, now=0.0)
    for tokens, now in ((90_100, 90.0), (90_200, 180.0)):
        left.step(tokens, now)
        assert left.seconds(1000) == pytest.approx(900.0)


def test_validations_count_at_their_share_and_do_not_make_the_rate_jump():
    left, now = TimeLeft(0, now=0.0), 0.0
    for step in range(1, 41):
        now += 1
        left.step(100 * step, now)
        if step % 20 == 0:
            left.pause(now)
            now += 5
            left.pause(now)  # another phase within the pause
            left.go_on(now)
    # 40 s of training with 10 s of pauses: 100 tokens/s, and a quarter of the time on top
    assert left.seconds(4000) == pytest.approx(50.0)
