"""From the command's words to a record; the process is played by a function."""

import json

import pytest

from litespark.benchmarks.profile.process import Answer, Profile
from litespark.benchmarks.profile.session import MEASURE, bench_profile
from litespark.child_process import ChildError
from litespark.metrics.records.profile import ClassRecord, ProfileRecord
from litespark.run.composing import compose
from litespark.run.config import ConfigError, parts_from
from tests.benchmarks.step.tiny_steps import SESSION

# two micro-batches of 2 sequences of 16 tokens a step, three steps; half the pairs of whole sequences
TOKENS, PAIRS = 3 * 4 * 16, 3 * 4 * (16 * 17 // 2) // 2


pytestmark = pytest.mark.usefixtures("at_once")


class Process:
    def __init__(self, outcome="measured", error=None):
        self.outcome, self.error = outcome, error

    def __call__(self, request, folder, *, timeout, program, environment):
        self.request, self.program = request, program
        if self.outcome == "failed":
            raise ChildError(self.error)
        done = request.record(self.outcome, "none", error=self.error)
        if self.outcome == "measured":
            done = request.record("measured", "none", step_ms=[9.0], detail="ops: all reference")
        classes = [ClassRecord("attention", 6.0), ClassRecord("other", 3.0), ClassRecord("idle", 1.0)]
        profile = Profile("cpu", TOKENS, PAIRS, 10.0, 9.0, classes)
        return json.loads(Answer(done, profile if self.outcome == "measured" else None).check())


def _bench(folder, process, variant="litespark", *overrides, **changes):
    values = {"variant": variant, "steps": 3, "layers": None, "command": ["litespark", "bench", "profile"],
              "output": folder, "say": lambda line: None, "launch": process}  # fmt: skip
    return bench_profile([*SESSION, *overrides], **(values | changes))


def test_the_record_holds_the_times_beside_the_roofline_of_the_variant(tmp_path):
    process = Process()
    record, path = _bench(tmp_path, process)
    assert ProfileRecord.read(path) == record
    assert path.name.endswith("_bench-profile_tiny_fp32-litespark.json")
    assert (record.variant, record.detail, record.recompute) == ("litespark", "ops: all reference", "none")
    assert (record.wall_milliseconds, record.unprofiled_milliseconds) == (10.0, 9.0)
    rooflines = {each.kernel_class: each.roofline_milliseconds for each in record.classes}
    model = parts_from(compose(SESSION)).model
    # 12 · L · H · Dh · pairs / 3 steps / 100 TFLOP/s: of the pairs that were allowed, not of whole sequences
    expected = 1e3 * 12 * model.num_layers * model.num_heads * model.head_dim * PAIRS / 3 / 1e14
    assert rooflines["attention"] == pytest.approx(expected)
    assert rooflines["other"] is None
    assert rooflines["idle"] == 0
    assert process.program == MEASURE
    assert (process.request.steps, process.request.layers) == (3, None)


def test_fewer_layers_and_a_combination_of_ours_are_asked_for(tmp_path):
    process = Process()
    record, path = _bench(tmp_path, process, "slow_norm:ops.rms_norm=reference", layers=1)
    assert process.request.layers == 1
    assert process.request.overrides == [*SESSION, "ops.rms_norm=reference"]
    assert (record.model.num_layers, record.settings) == (1, ["ops.rms_norm=reference"])
    assert path.name.endswith("_fp32-slow-norm.json")


@pytest.mark.parametrize(
    ("process", "variant", "message"),
    [
        (Process("failed", "ValueError: it broke"), "litespark", "got no profile .*: ValueError: it broke$"),
        (Process("out of memory", "CUDA out of memory."), "litespark", "try recompute=full, or --layers"),
        (Process(), "compiled_fp8", "cannot be profiled here: float8 products need a GPU"),
    ],
)
def test_what_has_no_profile_says_why_and_writes_nothing(tmp_path, process, variant, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        _bench(tmp_path, process, variant)
    assert not list(tmp_path.rglob("*.json"))
