"""On a CPU `precision=auto` is measured with the model's own layers, remembered, recorded, and kept by a resume."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from litespark.launch import ALONE
from litespark.mesh import Mesh
from litespark.run import measured_precision, timed_layers
from litespark.run.measured_precision import MARGIN, MeasuredPrecision, precision_of, with_measured_precision
from litespark.run.preflight import Machine
from litespark.run.record import RunRecord
from litespark.run.timed_layers import TimedLayers
from litespark.run.train import train
from tests.run.composed import SMALL, config, parts

CPU = torch.device("cpu")
MACHINE = Machine(CPU, "fp32", 1, ALONE)
measured = measured_precision.measured  # what it is before the tests pin it


def never(*_):
    raise AssertionError("measured")


@pytest.fixture(autouse=True)
def memory(monkeypatch, tmp_path):
    """The file of its own that a test remembers in."""
    file = tmp_path / "ops.json"
    monkeypatch.setattr(timed_layers, "default_cache", lambda: file)
    monkeypatch.setattr(measured_precision, "measured", measured)
    return file


@pytest.fixture
def times(monkeypatch):
    """Sets the milliseconds of a product and of the layers, and lists how often these were measured."""
    asked = []

    def be(fp32: float, bf16: float, product: float = 1.0) -> list[int]:
        def steps(layers):
            asked.append(layers.cut.model.num_layers)
            return {"fp32": fp32, "bf16": bf16}

        monkeypatch.setattr(measured_precision, "_products", lambda device: {"fp32": 1.0, "bf16": product})
        monkeypatch.setattr(measured_precision, "_steps", steps)
        return asked

    return be


@pytest.mark.parametrize(("bf16", "expected"), [(1.0, "bf16"), (1.02, "fp32"), (3.0, "fp32")])
def test_bf16_has_to_be_faster_by_the_margin(times, bf16, expected):
    wide = 1.01 * MARGIN
    times(wide, bf16)
    choice = measured(parts(*SMALL), CPU)
    assert choice.used == expected == precision_of(parts(*SMALL), CPU)
    assert choice.milliseconds == {"fp32": wide, "bf16": bf16}


def test_without_units_for_bf16_one_small_product_decides_and_nothing_is_remembered(times, memory):
    asked = times(1.0, 0.1, product=50.0)
    choice = measured(parts(*SMALL), CPU)
    assert (choice.used, choice.milliseconds, asked) == ("fp32", {"fp32": 1.0, "bf16": 50.0}, [])
    assert not memory.exists()


def test_what_was_measured_is_remembered_for_the_same_layers_tokens_and_threads(times, memory, monkeypatch):
    asked = times(2.0, 1.0)
    for layers in (4, 8):  # of which two are timed, alike in both
        assert measured(parts(*SMALL, f"model.num_layers={layers}"), CPU).used == "bf16"
    assert asked == [2]
    assert memory.exists()
    measured(parts(*SMALL, "model.num_layers=4", "data.micro_batch_size=1"), CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    measured(parts(*SMALL, "model.num_layers=4"), CPU)
    assert asked == [2, 2, 2]


@pytest.mark.parametrize("ops", ["litespark", "reference"])
def test_the_layers_of_the_model_are_timed_in_both_and_random_numbers_stay(ops, monkeypatch):
    # on a CPU without units for bf16 too, whose small products would decide
    monkeypatch.setattr(measured_precision, "_products", lambda device: {"fp32": 1.0, "bf16": 1.0})
    state = torch.get_rng_state()
    choice = measured(parts(*SMALL, f"ops={ops}", "ops.attention=triton", "ops.swiglu=triton"), CPU)
    assert min(choice.milliseconds.values()) > 0
    assert choice.milliseconds.keys() == {"fp32", "bf16"}
    assert "forward and backward of 1 of 1 layers with the head, over 2 x 8 tokens, take" in choice.reason
    assert torch.equal(torch.get_rng_state(), state)


def test_each_precision_computes_in_its_own():
    dtypes = []
    linear = torch.nn.Linear.forward

    def watched(self, x):
        dtypes.append(linear(self, x).dtype)
        return linear(self, x)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.Linear, "forward", watched)
        for name in ("fp32", "bf16"):
            TimedLayers(parts(*SMALL), CPU).step(name)()
    half = len(dtypes) // 2
    assert dtypes == [torch.float32] * half + [torch.bfloat16] * half


def test_layers_that_raise_leave_fp32(monkeypatch, memory):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(TimedLayers, "_ops", broken)
    monkeypatch.setattr(measured_precision, "_products", lambda device: {"fp32": 1.0, "bf16": 1.0})
    choice = measured(parts(*SMALL), CPU)
    assert (choice.used, choice.reason) == ("fp32", "its layers could not be measured")


def test_what_was_asked_for_is_not_measured(times):
    asked = times(2.0, 1.0)
    for precision in ("fp32", "bf16"):
        machine = replace(MACHINE, precision=precision)
        assert with_measured_precision(parts(*SMALL, f"precision={precision}"), machine) == machine
    assert not asked


def test_the_ranks_take_what_the_first_measured(monkeypatch):
    class SecondRank(Mesh):
        is_first = False

        def __init__(self):
            pass

        def from_first(self, make, doing):
            return MeasuredPrecision("bf16", "the first measured it", {"fp32": 2.0, "bf16": 1.0})

    monkeypatch.setattr(measured_precision, "measured", never)
    assert with_measured_precision(parts(*SMALL), replace(MACHINE, mesh=SecondRank())).precision == "bf16"


def test_a_run_says_and_records_what_auto_took_and_a_resume_keeps_it(times, logs, tmp_path, caplog, monkeypatch):
    times(2.0, 1.0)
    caplog.set_level(logging.INFO)
    train(config(*SMALL, logs))
    assert "precision=auto: bf16, since forward and backward of 1 of 1 layers" in caplog.text
    folder = tmp_path / "logs" / "runs" / "small"
    monkeypatch.setattr(measured_precision, "measured", never)
    train(config(*SMALL, logs, f"resume={folder}", "budget.steps=3"))
    assert "precision=auto: bf16, since the run began in it" in caplog.text
    record = RunRecord.read(Path(folder) / "run.json")
    (choice,) = record.choices
    assert (record.environment.precision, choice.setting, choice.used) == ("bf16", "precision", "bf16")
    assert {time.backend: time.milliseconds for time in choice.times} == {"fp32": 2.0, "bf16": 1.0}


def test_a_run_that_began_on_a_gpu_is_measured_where_it_goes_on(times, logs, tmp_path):
    times(1.0, 1.0)
    train(config(*SMALL, logs))
    record = RunRecord.read(tmp_path / "logs" / "runs" / "small" / "run.json")
    environment = replace(record.environment, precision="bf16")
    elsewhere = [replace(environment.devices[0], name="A Card")]
    for devices, expected in ((environment.devices, "bf16"), (elsewhere, "fp32")):
        began = replace(record.provenance, environment=replace(environment, devices=devices))
        assert with_measured_precision(parts(*SMALL), MACHINE, replace(record, provenance=began)).precision == expected
