"""`ops.compile=auto` compiles the blocks of a long run on a CPU where that was measured to pay; a resume keeps it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
import torch._inductor.config

from litespark.launch import ALONE
from litespark.run import measured_compile, timed_layers
from litespark.run.measured_compile import MARGIN, SHORTEST_SECONDS, measured, with_measured_compile
from litespark.run.preflight import Machine, preflight
from litespark.run.record import RunRecord
from litespark.run.record_ops import ChoiceRecord
from litespark.run.timed_layers import TimedLayers
from litespark.run.train import train
from litespark.training import model_builder
from tests.run.composed import SMALL, config, parts

MACHINE = Machine(torch.device("cpu"), "fp32", 1, ALONE)
AUTO = (*SMALL, "ops.compile=auto")
BLOCK = ChoiceRecord("ops.compile", "block", "it pays")


@pytest.fixture(autouse=True)
def memory(monkeypatch, tmp_path):
    """The file of its own that a test remembers in."""
    file = tmp_path / "ops.json"
    monkeypatch.setattr(timed_layers, "default_cache", lambda: file)
    return file


@pytest.fixture
def times(monkeypatch):
    """Sets what the layers take as they are (a second) and compiled, and in milliseconds what compiling them takes."""
    asked = []

    def be(block: float, compiling: float) -> list[str]:
        def compiled(layers, machine):
            asked.append("compiled")
            return {"none": 1000.0, "block": block, "compiling": compiling}

        monkeypatch.setattr(measured_compile, "least_milliseconds", lambda runs, device: {"none": 1000.0})
        monkeypatch.setattr(measured_compile, "_compiled", compiled)
        return asked

    return be


# of SMALL all layers and tokens are timed, so a step is estimated to take the second that they take
LONG = int(SHORTEST_SECONDS) + 1


def test_a_short_run_compiles_nothing_to_find_out(times):
    asked = times(100.0, 1.0)
    choice = measured(parts(*AUTO), MACHINE, LONG - 2)
    assert (choice.used, asked) == ("none", [])
    assert "1799 steps take about 29 min 59 s, and compiling is tried from 30 min 00 s on" in choice.reason


@pytest.mark.parametrize(("share", "expected"), [(1.01, "block"), (0.99, "none")])
def test_blocks_are_compiled_where_a_multiple_of_the_cost_is_saved(times, share, expected):
    saved = 0.2 * LONG
    times(800.0, 1e3 * saved / MARGIN / share)
    choice = measured(parts(*AUTO), MACHINE, LONG)
    assert choice.used == expected
    assert f"of {LONG} steps of about 30 min 01 s that saves 6 min 00 s for" in choice.reason
    assert [time.backend for time in choice.times] == ["none", "block", "compiling"]


def test_slower_when_compiled_it_saves_nothing(times):
    times(1100.0, 0.0)
    choice = measured(parts(*AUTO), MACHINE, LONG)
    assert choice.used == "none"
    assert "saves 0 ms" in choice.reason


def test_what_was_measured_is_remembered_for_longer_runs_and_not_for_another_precision(times):
    asked = times(500.0, 1000.0)
    for steps in (LONG, 2 * LONG, 1, LONG):
        measured(parts(*AUTO), MACHINE, steps)
    assert asked == ["compiled"]
    measured(parts(*AUTO), replace(MACHINE, precision="bf16"), LONG)
    assert asked == ["compiled"] * 2


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (replace(MACHINE, precision="fp8"), "torch.compile cannot look into the kernels of fp8"),
        (replace(MACHINE, device=torch.device("cuda", 0)), "on a GPU no run has been measured yet"),
    ],
)
def test_where_it_is_not_for_it_is_none_with_the_reason(times, machine, reason):
    asked = times(100.0, 1.0)
    choice = measured(parts(*AUTO), machine, LONG)
    assert (choice.used, asked) == ("none", [])
    assert reason in choice.reason


def test_without_a_compiler_it_is_none(times):
    asked = times(100.0, 1.0)
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        choice = measured(parts(*AUTO), MACHINE, LONG)
    assert (choice.used, asked) == ("none", [])
    assert "no C++ compiler is found" in choice.reason


def test_layers_that_do_not_compile_leave_the_run_as_it_is(monkeypatch, caplog):
    step = TimedLayers.step

    def broken(layers, precision, compile_mode="none"):
        if compile_mode != "none":
            raise RuntimeError("the compiler ended with 1")
        return step(layers, precision)

    monkeypatch.setattr(TimedLayers, "step", broken)
    choice = measured(parts(*AUTO), MACHINE, 10**12)
    assert (choice.used, choice.reason) == ("none", "its layers could not be compiled")
    assert "the compiler ended with 1" in caplog.text


@pytest.mark.slow
def test_the_layers_are_compiled_and_timed():
    choice = measured(parts(*AUTO), MACHINE, 10**12)
    assert {time.backend for time in choice.times} == {"none", "block", "compiling"}
    assert min(time.milliseconds for time in choice.times) > 0


def test_what_is_asked_for_by_name_is_taken(times, logs):
    asked = times(100.0, 1.0)
    for mode in ("none", "block", "model"):
        settings = parts(*SMALL, logs, f"ops.compile={mode}")
        machine = with_measured_compile(settings, preflight(settings, ALONE), LONG)
        assert (machine.compile_mode, machine.choices) == (mode, ())
    assert not asked


def test_a_run_compiles_what_auto_took_records_it_and_keeps_it_in_a_resume(logs, tmp_path, caplog, monkeypatch):
    modes = []
    monkeypatch.setattr(model_builder, "compile_model", lambda model, blocks, mode: modes.append(mode))
    monkeypatch.setattr(measured_compile, "measured", lambda *_: BLOCK)
    caplog.set_level(logging.INFO)
    train(config(*AUTO, logs))
    assert "ops.compile=auto: block, since it pays" in caplog.text
    folder = tmp_path / "logs" / "runs" / "small"
    monkeypatch.setattr(measured_compile, "measured", None)
    train(config(*AUTO, logs, f"resume={folder}", "budget.steps=3"))
    assert modes == ["block"] * 2
    record = RunRecord.read(folder / "run.json")
    assert BLOCK in record.choices
    began = replace(record, choices=[])
    assert with_measured_compile(parts(*AUTO), MACHINE, LONG, began).compile_mode == "none"
