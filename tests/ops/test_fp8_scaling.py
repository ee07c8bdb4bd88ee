"""Scales from the largest values of the last steps: how they are renewed, kept, forgotten and told."""

import math

import pytest
import torch

from litespark.mesh import Mesh
from litespark.ops.fp8.formats import E4M3, E5M2, amax_bits
from litespark.ops.fp8.scaling import Scaling

NAMES = ["input", "weight", "gradient"]
PLACE = {name: place for place, name in enumerate(NAMES)}


def _scaling(history=3, margin=0, sample_every=2):
    formats = [E4M3, E4M3, E5M2]
    return Scaling(NAMES, formats, torch.device("cpu"), history=history, margin=margin, sample_every=sample_every)


def _note(scaling, name, value, recipe="delayed", size=10):
    quantisation = scaling.quantisation(PLACE[name], recipe, size)
    torch.maximum(quantisation.amax, amax_bits(torch.tensor(value)), out=quantisation.amax)
    return quantisation


def _step(scaling, **values):
    for name, value in values.items():
        _note(scaling, name, value)
    scaling.finish_step(Mesh())
    return dict(zip(NAMES, scaling.scale.tolist(), strict=True))


def test_scales_follow_the_largest_value_of_as_many_steps_as_the_history_has():
    scaling = _scaling(history=3)
    # 448 · 2^n takes the scale 2^n
    found = [_step(scaling, input=value)["input"] for value in (448.0, 4 * 448.0, 448.0, 2 * 448.0, 448.0, 448.0)]
    assert found == [1.0, 4.0, 4.0, 4.0, 2.0, 2.0]
    assert _step(scaling, input=448.0)["input"] == 1.0
    assert scaling.history.shape == (3, 3)


@pytest.mark.parametrize(
    ("margin", "largest", "scale"),
    # the largest number of fp32 lies within e4m3 by 2^120, beyond which no margin leads
    [(0, 448.0, 1.0), (3, 448.0, 8.0), (1, 3e38, 2.0**120), (200, 3e38, 2.0**120)],
)
def test_a_margin_leaves_room_above_the_largest_value_and_makes_no_nan(margin, largest, scale):
    assert _step(_scaling(margin=margin), input=largest)["input"] == scale


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_leaves_scale_and_history_as_they_were_and_so_do_zeros(bad):
    scaling = _scaling(history=1)
    before = _step(scaling, input=4 * 448.0, weight=2 * 448.0)
    for _ in range(3):
        assert _step(scaling, input=bad) == before
    assert scaling.history[0, PLACE["input"]] == 4 * 448.0
    assert _step(scaling, input=0.0) == before == {"input": 4.0, "weight": 2.0, "gradient": 1.0}


def test_scales_are_renewed_where_they_are_and_a_backward_pass_with_those_of_before_is_refused():
    scaling = _scaling()
    _step(scaling, input=448.0)
    held = _note(scaling, "input", 4 * 448.0).scale
    product = torch.ones((), requires_grad=True) * held
    scaling.finish_step(Mesh())
    assert float(held) == float(scaling.quantisation(PLACE["input"], "delayed", 0).scale) == 4.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_every_scale_begins_at_a_multiple_of_16_bytes():
    scaling = _scaling()
    for renew in (
        lambda: None,
        lambda: scaling.finish_step(Mesh()),
        lambda: scaling.load_state_dict(scaling.state_dict()),
    ):
        renew()
        assert [scaling.scale[place].data_ptr() % 16 for place in range(3)] == [0, 0, 0]


# ---------------------------------------------------------------- what is known


def test_a_tensor_has_a_scale_once_a_step_has_seen_it():
    scaling = _scaling()
    assert not _note(scaling, "input", 1.0).fused
    assert not scaling.quantisation(PLACE["input"], "delayed", 1).fused  # within a step nothing changes
    scaling.finish_step(Mesh())
    assert scaling.known == [True, False, False]
    assert scaling.quantisation(PLACE["input"], "delayed", 1).fused
    quantisation = scaling.quantisation(PLACE["input"], "tensorwise", 1)
    assert (quantisation.scale, quantisation.fused) == (None, False)
    scaling.quantisation(PLACE["gradient"], "delayed", 1, note=False)
    scaling.finish_step(Mesh())
    scaling.finish_step(Mesh())
    assert scaling.known == [True, False, False]


# ---------------------------------------------------------------- what is counted


def test_shares_are_of_the_values_that_were_counted():
    scaling = _scaling(sample_every=2)
    for step in range(4):
        for size in (30, 10):
            quantisation = _note(scaling, "input", 1.0, size=size)
            assert (quantisation.counts is not None) == (step % 2 == 0) == scaling.counting
            if quantisation.counts is not None:
                quantisation.counts.add_(torch.tensor([1, 2]))
        scaling.finish_step(Mesh())
    # two counting steps of 40 values, two casts each
    assert scaling.read(Mesh()) == {"input": (4 / 80, 8 / 80)}
    assert scaling.read(Mesh()) == {}
    assert int(scaling.counts.sum()) == 0


# ---------------------------------------------------------------- a checkpoint


def test_a_checkpoint_has_all_that_the_next_steps_depend_on():
    scaling, again = _scaling(), _scaling()
    _step(scaling, input=448.0, weight=5.0)
    _step(scaling, input=7.0, gradient=3.0)
    _note(scaling, "input", 1.0).counts.add_(torch.tensor([3, 1]))
    state = scaling.state_dict()
    # of what was noted before it was loaded nothing stays
    _note(again, "weight", 1e6)
    _note(again, "gradient", math.nan)
    again.load_state_dict(state)
    # which was noted in a step that no checkpoint is taken in
    scaling.amax.zero_()
    scaling._noted = [False] * 3
    assert (again.steps, again.known, again.seen) == (2, [True, True, True], scaling.seen)
    for _ in range(2):
        assert torch.equal(again.scale, scaling.scale)
        assert torch.equal(again.history, scaling.history)
        assert torch.equal(again.counts, scaling.counts)
        assert _step(again, weight=2.0) == _step(scaling, weight=2.0)
    assert again.read(Mesh()) == scaling.read(Mesh())
