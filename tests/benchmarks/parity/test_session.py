"""A session of parity: equal tokens for every variant, what it keeps, and what the same command continues."""

from dataclasses import dataclass, field

import pytest

from litespark.benchmarks.parity.session import DEFAULT, ParitySettings, bench_parity
from litespark.benchmarks.training_runs.launch import Ended
from litespark.benchmarks.training_runs.variants import Variant, parse
from litespark.cli import main
from litespark.cli.configs import compose
from litespark.experiment.config import ConfigError, parts_from
from litespark.metrics.parity_table import rows
from litespark.metrics.records.parity import ParityRecord
from tests.cli.conftest import logging_as_before
from tests.cli.tiny_run import tiny

__all__ = ["logging_as_before"]

TWO = (Variant("fp32", ("precision=fp32",)), Variant("slow", ("precision=fp32", "ops=reference")))
SIMULATED = "fp8: precision=fp8 precision.fp8.simulate=true"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder with a text, which is prepared once."""
    return tmp_path_factory.mktemp("house")


@dataclass
class Session:
    """A session whose runs are real ones of a tiny model in this process; `ends` gives a variant another end."""

    house: object
    output: object
    ends: dict = field(default_factory=dict)
    started: list = field(default_factory=list)
    said: list = field(default_factory=list)

    def launch(self, training):
        variant = training.name.split("-")[0]
        self.started.append(variant)
        if variant in self.ends:
            return self.ends[variant]
        words = [*training.overrides, f"paths.logs={training.logs}", f"name={training.name}"]
        assert main(["train", *words]) == 0
        return Ended("finished")

    def __call__(self, variants=TWO, seeds=(1,), overrides=(), **settings):
        words = tiny(self.house, budget__steps=8, trainer__validate_every=4, paths__logs=self.output)
        return bench_parity(
            lambda words: parts_from(compose(words)),
            [*words, *overrides],
            variants,
            ParitySettings(seeds=seeds, **settings),
            command=["litespark", "bench", "parity"],
            script=self.house / "train.py",
            output=self.output / "results",
            say=self.said.append,
            launch=self.launch,
        )


@pytest.fixture
def session(house, tmp_path):
    return Session(house, tmp_path)


def test_simulated_fp8_is_held_against_the_first_over_equal_tokens(session):
    record, path = session(variants=(TWO[0], parse(SIMULATED, DEFAULT)), bound=0.05)
    assert ParityRecord.read(path) == record
    assert record.complete
    assert path.name.endswith("_bench-parity_tiny_fp32.json")
    first, ours = (variant.runs[0] for variant in record.variants)
    assert first.tokens == ours.tokens == record.stream.budget_tokens == 8 * 4 * 32
    assert (first.precision, first.fp8) == ("fp32", None)
    assert (ours.precision, ours.fp8.simulated, ours.fp8.in_fp8) == ("fp8", True, ours.fp8.linears)
    # another rounding gives another loss: were it the same the two would be one training
    assert first.bits_per_byte != ours.bits_per_byte
    assert len(first.curve) == len(ours.curve) == 2
    assert rows(record)[1].within


def test_a_failure_leaves_the_variant_out_until_the_command_is_given_again(session):
    session.ends["slow"] = Ended("failed", "out of memory")
    record, path = session()
    assert [each.error for each in record.variants[1].failures] == ["out of memory"]
    assert not record.complete
    session.ends.clear()
    session.started.clear()
    record, again = session()
    assert (again, session.started, record.complete) == (path, ["slow"], True)


REFUSED = {
    r"budget\.target_bpb: got 2\.0, expected null": (("budget.target_bpb=2.0",), TWO),
    r"got the override variant=.*expected plain ones": (("variant={seed:3}",), TWO),
    r"trainer\.validate_every: got null": (("trainer.validate_every=null",), TWO),
    r"--variant: got 1, expected at least two": ((), TWO[:1]),
    r"--variant deep: got settings that change model\.layers": ((), (TWO[0], Variant("deep", ("model.layers=3",)))),
    r"precision=fp8.*simulate=true": ((), (TWO[0], Variant("fp8", ("precision=fp8",)))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_compared_is_refused_before_anything_runs(session, message):
    overrides, variants = REFUSED[message]
    with pytest.raises(ConfigError, match=message):
        session(variants=variants, overrides=overrides)
    assert not session.started


def test_a_bound_is_a_share():
    for bound in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="--bound: got"):
            ParitySettings(bound=bound)
    with pytest.raises(ValueError, match="--seeds"):
        ParitySettings(seeds=())


def test_the_defaults_hold_three_recipes_against_bf16():
    assert [each.name for each in DEFAULT] == ["bf16", "fp8", "fp8_tensorwise", "fp8_rowwise"]
    for each in DEFAULT:
        parts = parts_from(compose([*each.settings]))
        assert parts.precision == ("bf16" if each.name == "bf16" else "fp8")
