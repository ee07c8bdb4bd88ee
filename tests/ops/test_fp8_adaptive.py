"""When layers leave fp8 and when they come back: planted losses, and properties of every course of them."""

import json
from itertools import pairwise

from litespark.ops.fp8.adaptive import Adaptive, linear_of
from litespark.ops.fp8.settings import AdaptiveConfig
from tests.properties import given, settings, st

DOWN = "blocks.1.mlp.down"
QUIET, LOUD = (0.0, 0.0), (0.5, 0.0)


def config(**changes):
    return AdaptiveConfig(**({"patience": 2, "return_after": 3} | changes))


def shown(policy, course, tensor=f"{DOWN}.input"):
    """All moves of a policy that is shown `course`, one reading a step; what is in bf16 has nothing to show."""
    moves = []
    for step, lost in enumerate(course, start=1):
        moves += policy.observe(step, {} if policy.place(linear_of(tensor)) == "bf16" else {tensor: lost})
    return moves


def places(moves):
    return [(move.step, move.before, move.after) for move in moves]


def test_a_layer_that_keeps_losing_leaves_comes_back_and_stays_away_twice_as_long_each_time():
    moves = shown(Adaptive(config(), "delayed"), [LOUD] * 24)
    assert places(moves) == [
        (2, "delayed", "bf16"),
        (5, "bf16", "delayed"),
        (7, "delayed", "bf16"),
        (13, "bf16", "delayed"),
        (15, "delayed", "bf16"),
    ]
    assert [(move.reason, move.readings) for move in moves[:4]] == [
        ("overflow", 2),
        ("return", 3),
        ("overflow", 2),
        ("return", 6),
    ]
    assert (moves[0].tensor, moves[0].share, moves[0].bound) == (f"{DOWN}.input", 0.5, 0.001)
    assert moves[1].described() == (
        f"step 5: {DOWN} goes from bf16 to delayed: its recipe is tried again, after 3 readings in a row"
    )


def test_a_bound_of_nothing_is_passed_by_anything():
    policy = Adaptive(config(overflow_bound=0.0), "delayed")
    assert shown(policy, [QUIET] * 5) == []
    (move,) = shown(policy, [(1e-9, 0.0)] * 2)
    assert (move.reason, move.share, move.bound) == ("overflow", 1e-9, 0.0)


def test_without_a_fallback_a_layer_is_warned_of_ever_more_rarely_and_stays():
    policy = Adaptive(config(fallback="none"), "delayed")
    moves = shown(policy, [LOUD] * 24)
    assert places(moves) == [(step, "delayed", "delayed") for step in (2, 7, 15)]
    assert policy.place(DOWN) == "delayed"
    assert "stays with delayed" in moves[0].described()


def test_the_tensor_that_loses_most_against_its_bound_is_named():
    policy = Adaptive(config(patience=1, underflow_bound=0.1), "delayed")
    (move,) = policy.observe(
        70, {f"{DOWN}.input": (0.0011, 0.0), f"{DOWN}.weight": (0.0, 0.9), f"{DOWN}.gradient": (0.02, 0.3)}
    )
    assert (move.linear, move.tensor, move.reason) == (DOWN, f"{DOWN}.gradient", "overflow")
    assert (move.share, move.bound) == (0.02, 0.001)
    assert move.described() == (
        "step 70: blocks.1.mlp.down goes from delayed to bf16: 2.000% of its gradient saturates, above "
        "0.100% in 1 reading"
    )


# ---------------------------------------------------------------- every course

TENSORS = [
    f"blocks.{block}.mlp.{linear}.{kind}"
    for block in (0, 1)
    for linear in ("gate_up", "down")
    for kind in ("input", "gradient")
]
SHARE = st.sampled_from([0.0, 0.0005, 0.001, 0.002, 0.25, 0.3, 1.0])
COURSES = st.lists(st.lists(st.tuples(SHARE, SHARE), min_size=len(TENSORS), max_size=len(TENSORS)), max_size=40)
CONFIGS = st.builds(
    AdaptiveConfig,
    patience=st.integers(1, 4),
    fallback=st.sampled_from(["bf16", "none"]),
    return_after=st.sampled_from([None, 1, 2, 5]),
)
RECIPES = st.sampled_from(["delayed", "tensorwise"])


def visible(policy, reading):
    shares = zip(TENSORS, reading, strict=True)
    return {tensor: lost for tensor, lost in shares if policy.place(linear_of(tensor)) != "bf16"}


@settings(deadline=None, derandomize=True)
@given(CONFIGS, RECIPES, COURSES)
def test_every_move_follows_from_the_settings(chosen, recipe, course):
    policy, moves = Adaptive(chosen, recipe), []
    for step, reading in enumerate(course, start=1):
        moves += policy.observe(step, visible(policy, reading))

    def loud(step, linear):
        shares = [lost for tensor, lost in zip(TENSORS, course[step - 1], strict=True) if linear_of(tensor) == linear]
        return any(over > chosen.overflow_bound or under > chosen.underflow_bound for over, under in shares)

    for linear in {move.linear for move in moves}:
        mine = [move for move in moves if move.linear == linear]
        assert mine[0].before == recipe
        assert all(first.after == second.before for first, second in pairwise(mine))
        assert mine[-1].after == policy.place(linear)
        away = 0
        for index, move in enumerate(mine):
            since = mine[index - 1].step if index else 0
            if move.reason == "return":
                # a rest is doubled by every move before it
                assert move.step - since == move.readings == chosen.return_after * 2 ** (away - 1)
                assert move.after == recipe
                continue
            away += 1
            assert move.step - since >= chosen.patience
            assert all(loud(step, linear) for step in range(move.step - chosen.patience + 1, move.step + 1))
            assert move.share > move.bound
            assert move.after == ("bf16" if chosen.fallback == "bf16" else move.before)


@settings(deadline=None, derandomize=True)
@given(CONFIGS, RECIPES, COURSES, st.integers(0, 40), st.randoms(use_true_random=False))
def test_ranks_decide_alike_also_when_one_is_resumed_and_names_come_in_another_order(
    chosen, recipe, course, cut, chance
):
    first, second = Adaptive(chosen, recipe), Adaptive(chosen, recipe)
    for step, reading in enumerate(course, start=1):
        if step == cut:
            saved = json.loads(json.dumps(second.state_dict()))
            second = Adaptive(chosen, recipe)
            second.load_state_dict(saved)
        shuffled = list(visible(second, reading).items())
        chance.shuffle(shuffled)
        expected = {move.linear: move for move in first.observe(step, visible(first, reading))}
        found = {move.linear: move for move in second.observe(step, dict(shuffled))}
        assert set(found) == set(expected)
        assert all(found[linear].after == move.after for linear, move in expected.items())
