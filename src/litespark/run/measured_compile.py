"""What `ops.compile=auto` comes to: on a CPU whether a long run pays for compiling its blocks, measured and remembered.

Compiled, a step takes the time of its products and little else, and compiling takes a minute; so it is tried for a run
of at least `SHORTEST_SECONDS`, and blocks are compiled where what that saves is `MARGIN` times what it costs. The whole
model as one graph was not faster than its blocks and takes longer to compile (results/NEGATIVE.md).
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import torch

from litespark.device import device_of
from litespark.models.compilation import CompileMode
from litespark.ops.measuring import those_that_run
from litespark.planning.flops import causal_mean_keys, model_flops_per_token
from litespark.reports.quantities import duration
from litespark.run.config import Parts
from litespark.run.precision import computes_with_ops
from litespark.run.preflight import Machine
from litespark.run.record import RunRecord
from litespark.run.record_ops import BackendTimeRecord, ChoiceRecord
from litespark.run.timed_layers import TimedLayers, least_milliseconds

log = logging.getLogger(__name__)

# of training; shorter, a run has no gain worth the minute or two in which it is measured
SHORTEST_SECONDS = 1800.0
# how many times its cost has to be saved. Blocks are compiled for the steps, for validations and for other numbers of
# documents, and layers alone gain more than a step with its optimizer
MARGIN = 6.0
SETTING = "ops.compile"


def with_measured_compile(parts: Parts, machine: Machine, steps: int, before: RunRecord | None = None) -> Machine:
    """The machine with what `auto` comes to for a run of so many steps; a collective. A resume keeps what was taken."""
    if parts.ops.compile != "auto":
        return machine
    if before is None:
        make = partial(measured, parts, machine, steps)
        choice = machine.mesh.from_first(make, "compiling to be measured")
    else:
        choice = next((choice for choice in before.choices if choice.setting == SETTING), _none("the run began so"))
    if machine.mesh.is_first:
        log.info("%s=auto: %s, since %s", SETTING, choice.used, choice.reason)
    return replace(machine, compile_mode=cast(CompileMode, choice.used), choices=(*machine.choices, choice))


def _none(reason: str, milliseconds: dict[str, float] | None = None) -> ChoiceRecord:
    times = [BackendTimeRecord(name, time) for name, time in (milliseconds or {}).items()]
    return ChoiceRecord(SETTING, "none", reason, times)


def measured(parts: Parts, machine: Machine, steps: int) -> ChoiceRecord:
    """Whether blocks are compiled, and by which times of the layers."""
    if (reason := _why_not(parts, machine)) is not None:
        return _none(reason)
    layers = TimedLayers(parts, machine.device)
    remembered = layers.remembered(f"{SETTING} in {machine.precision}")
    times = remembered.read()
    with device_of(machine.device).random_state_kept():
        if "none" not in times:
            times = least_milliseconds({"none": layers.step(machine.precision)}, machine.device)
            remembered.write(times)
        seconds = _seconds(layers, parts, machine, steps, times["none"])
        if seconds < SHORTEST_SECONDS:
            long = duration(SHORTEST_SECONDS)
            return _none(f"{steps} steps take about {duration(seconds)}, and compiling is tried from {long} on")
        if "block" not in times:
            log.info("%s=auto: compiling and timing layers, once for this model on this machine", SETTING)
            times |= _compiled(layers, machine)
            remembered.write(times)
    if "block" not in times:
        return _none("its layers could not be compiled", times)
    saved, cost = seconds * (1 - times["block"] / times["none"]), times["compiling"] / 1e3
    pays = saved > MARGIN * cost
    reason = (
        f"{layers.what} take {times['none']:.3g} ms as they are and {times['block']:.3g} ms compiled: of {steps} steps "
        f"of about {duration(seconds)} that saves {duration(max(0.0, saved))} for {duration(cost)} of compiling"
        + ("" if pays else f", and {MARGIN:g} times that is asked for")
    )
    return replace(_none(reason, times), used="block" if pays else "none")


def _why_not(parts: Parts, machine: Machine) -> str | None:
    """Why nothing is compiled whatever is measured; None where it is."""
    if machine.precision == "fp8":
        return "torch.compile cannot look into the kernels of fp8"
    if device_of(machine.device).is_accelerator:
        return "on a GPU no run has been measured yet; ops.compile=block does it all the same"
    if not computes_with_ops(parts):
        return f"model={parts.model.name} is none of ours, and nothing is measured"
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except Exception as error:  # noqa: BLE001 (it has its own kinds, and another version may have another place)
        return f"no C++ compiler is found ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return None


def _seconds(layers: TimedLayers, parts: Parts, machine: Machine, steps: int, milliseconds: float) -> float:
    """An estimate of the training time of a run, from that of its layers by model FLOPs."""

    def flops(parts: Parts) -> float:
        return model_flops_per_token(parts.model, causal_mean_keys(parts.data.seq_len), parts.adapter_counts)

    tokens = parts.data.micro_batch_size * parts.data.seq_len * machine.accumulate * steps
    return milliseconds / 1e3 * tokens / layers.shapes.tokens * flops(parts) / flops(layers.cut)


def _compiled(layers: TimedLayers, machine: Machine) -> dict[str, float]:
    """Milliseconds of the layers compiled and as they are, in turns, and of compiling; none where that raised."""

    def compiled(name: CompileMode) -> Callable[[], object]:
        return layers.step(machine.precision, name)

    start = time.perf_counter()
    modes: list[CompileMode] = ["block"]
    runs = those_that_run(modes, compiled, f"{SETTING}=")
    compiling = 1e3 * (time.perf_counter() - start)
    if not runs:
        return {}
    runs["none"] = layers.step(machine.precision)
    times = least_milliseconds(runs, layers.device)
    torch._dynamo.reset()  # the run compiles for its own sizes alone
    return {**times, "compiling": compiling}
