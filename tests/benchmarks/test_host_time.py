"""Host time with stubbed launches: a layer is a difference of medians, and nothing is launched."""

import itertools

import pytest

from litespark.benchmarks import host_time
from litespark.ops.launches import intercepted

pytest.importorskip("triton")


def test_a_layer_is_the_difference_of_medians_and_the_first_steps_do_not_count(monkeypatch):
    cost = {name: 1 + place for place, name in enumerate(host_time.VARIANTS)}

    def step(name, layers, precision):
        late = itertools.count()
        # half a second of what is no layer, one round that is disturbed, and first steps that take long
        return lambda: 0.5 + cost[name] * layers + (100 if (turn := next(late)) < host_time.WARM_UP or turn == 6 else 0)

    monkeypatch.setattr(host_time, "step", step)
    assert host_time.measure("bf16", 5) == pytest.approx({name: 1e6 * of_layer for name, of_layer in cost.items()})


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_step_of_each_variant_runs_without_a_launch(precision, monkeypatch):
    monkeypatch.setattr(host_time.time, "thread_time", itertools.count().__next__)
    with intercepted(host_time.stub):
        assert [host_time.step(name, 1, precision)() for name in host_time.VARIANTS] == [1] * 4
