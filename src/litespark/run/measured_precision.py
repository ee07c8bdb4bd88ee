"""What `precision=auto` comes to on a CPU: layers of the model are timed in fp32 and in bf16, and remembered.

Whether bf16 pays there depends on the processor (its products may be several times as fast as those of fp32, or a
hundred times as slow) and on the model: in a small one casts cost more than products gain.
"""

import logging
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from litespark.device import device_of
from litespark.ops.measuring import those_that_run
from litespark.run.config import Parts
from litespark.run.precision import computes_with_ops, decided, is_measured
from litespark.run.preflight import Machine
from litespark.run.record import RunRecord
from litespark.run.record_ops import BackendTimeRecord, ChoiceRecord
from litespark.run.targets import ConfigError
from litespark.run.timed_layers import TimedLayers, least_milliseconds
from litespark.training.parallel.precision import Precision

log = logging.getLogger(__name__)

# how many times as fast bf16 has to be: less is within the noise of a shared machine, and fp32 rounds less
MARGIN = 1.2
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
# a processor without units for bf16 would take minutes for a layer: one small product shows it
_PRODUCT, _HOPELESS = 256, 2.0


@dataclass(frozen=True)
class MeasuredPrecision:
    """The precision that `auto` takes, why, and the milliseconds of each where they were measured."""

    used: Precision
    reason: str
    milliseconds: dict[str, float] = field(default_factory=dict)

    def record(self) -> ChoiceRecord:
        times = [BackendTimeRecord(name, time) for name, time in self.milliseconds.items()]
        return ChoiceRecord("precision", self.used, self.reason, times)


def precision_of(parts: Parts, device: torch.device) -> Precision:
    """In what a run of `parts` computes on `device`; a ConfigError where that does not go."""
    problems: list[str] = []
    precision, _ = decided(parts, device, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return measured(parts, device).used if is_measured(parts, device) else precision


def with_measured_precision(parts: Parts, machine: Machine, before: RunRecord | None = None) -> Machine:
    """The machine with what `auto` comes to on a CPU; a collective. A run that began on a CPU goes on as it began."""
    if not is_measured(parts, machine.device):
        return machine
    began = before.environment if before is not None and before.environment.on_cpu else None
    if began is not None and began.precision in _DTYPES:
        choice = MeasuredPrecision(began.precision, "the run began in it")
    else:
        choice = machine.mesh.from_first(partial(measured, parts, machine.device), "the precision to be measured")
    if machine.mesh.is_first:
        log.info("precision=auto: %s, since %s", choice.used, choice.reason)
    return replace(machine, precision=choice.used, choices=(*machine.choices, choice.record()))


def measured(parts: Parts, device: torch.device) -> MeasuredPrecision:
    """The faster of fp32 and bf16, the latter only by `MARGIN`; measured in this process, or remembered."""
    if not computes_with_ops(parts):
        return MeasuredPrecision("fp32", f"model={parts.model.name} is none of ours, and nothing is measured")
    layers = TimedLayers(parts, device)
    what, remembered = layers.what, layers.remembered("precision")
    times = remembered.read()
    if not times.keys() >= _DTYPES.keys():
        with device_of(device).random_state_kept():
            times = _products(device)
            if times["bf16"] > _HOPELESS * times["fp32"]:
                what = "so many small products"
            else:
                times = _steps(layers)
                remembered.write(times)
    if not times.keys() >= _DTYPES.keys():
        return MeasuredPrecision("fp32", "its layers could not be measured", times)
    pays = times["fp32"] > MARGIN * times["bf16"]
    wide, narrow = (f"{times[name]:.3g} ms in {name}" for name in _DTYPES)
    rule = "" if pays else f", which is not {MARGIN:g} times as fast"
    return MeasuredPrecision("bf16" if pays else "fp32", f"{what} take {wide} and {narrow}{rule}", times)


def _products(device: torch.device) -> dict[str, float]:
    x = torch.randn(_PRODUCT, _PRODUCT, device=device)
    operands = {name: x.to(dtype) for name, dtype in _DTYPES.items()}
    return least_milliseconds({name: partial(torch.matmul, y, y) for name, y in operands.items()}, device)


def _steps(layers: TimedLayers) -> dict[str, float]:
    """Of the layers, by precision; one that raised is left out."""
    return least_milliseconds(those_that_run(_DTYPES, lambda name: layers.step(name), "precision="), layers.device)
