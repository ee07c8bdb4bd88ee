"""What `precision=auto` comes to on a CPU: the model's own layers, timed in fp32 and in bf16, and remembered.

Whether bf16 pays there depends on the processor (its products may be several times as fast as those of fp32, or a
hundred times as slow) and on the model: in a small one casts cost more than products gain.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

import litespark
from litespark.device import device_of
from litespark.ops.backend import BACKENDS, REFERENCE, Ops, load
from litespark.ops.choice import reason_against
from litespark.ops.measuring import Remembered, default_cache, those_that_run
from litespark.ops.shapes import Place
from litespark.ops.timing import interleaved_milliseconds
from litespark.run.config import Parts
from litespark.run.precision import computes_with_ops, decided, is_measured, step_shapes
from litespark.run.preflight import Machine
from litespark.run.record import RunRecord
from litespark.run.record_ops import BackendTimeRecord, ChoiceRecord
from litespark.run.targets import ConfigError
from litespark.training.model_builder import ModelBuilder
from litespark.training.strategies import Precision, forward_context, residual_dtype

log = logging.getLogger(__name__)

# how many times as fast bf16 has to be: less is within the noise of a shared machine, and fp32 rounds less
MARGIN = 1.2
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
# what is timed: so many layers with embedding, head and loss, on at most so many tokens; for about so many seconds, or
# the fewest repeats, all of which come to about two steps of the run
_LAYERS, _TOKENS, _SECONDS, _REPEATS = 2, 1024, 0.3, 3
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
    model = replace(parts.model, num_layers=min(_LAYERS, parts.model.num_layers))
    length = min(parts.data.seq_len, _TOKENS)
    sequences = min(parts.data.micro_batch_size, _TOKENS // length)
    cut = replace(parts, model=model, data=replace(parts.data, seq_len=length, micro_batch_size=sequences))
    layers = f"{model.num_layers} of {parts.model.num_layers} layers"
    what = f"forward and backward of {layers} with the head, over {sequences} x {length} tokens,"
    facts = {
        "precision": repr(model),
        "tokens": (sequences, length),
        "ops": parts.ops.backends(),
        "recompute": parts.recompute,
        "stream": parts.residual,
        "threads": torch.get_num_threads(),
    }
    remembered = Remembered(default_cache(), device, facts, Path(litespark.__file__).parent / "models")
    times = remembered.read()
    if not times.keys() >= _DTYPES.keys():
        with device_of(device).random_state_kept():
            times = _products(device)
            if times["bf16"] > _HOPELESS * times["fp32"]:
                what = "so many small products"
            else:
                times = _steps(cut, device)
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
    return _least({name: partial(torch.matmul, y, y) for name, y in operands.items()}, device)


def _steps(parts: Parts, device: torch.device) -> dict[str, float]:
    """Of the layers, by precision; one that raised is left out."""
    return _least(those_that_run(_DTYPES, partial(_step, parts, device), "precision="), device)


def _least(runs: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    times = interleaved_milliseconds(runs, device, seconds=_SECONDS, least_repeats=_REPEATS)
    # the least of them: what else runs on a shared processor only adds
    return {name: min(repeats) for name, repeats in times.items()}


def _step(parts: Parts, device: torch.device, precision: Precision) -> Callable[[], object]:
    """A run of forward and backward of a whole model, as training calls it."""
    ops, stream = _ops(parts, device, _DTYPES[precision]), residual_dtype(parts.residual, precision, device)
    model = ModelBuilder(parts.model, ops, parts.seed, parts.recompute, residual_dtype=stream).build(device)
    shape = (parts.data.micro_batch_size, parts.data.seq_len)
    tokens, labels = (torch.randint(parts.model.vocab_size, shape, device=device) for _ in range(2))
    parameters = list(model.parameters())

    def step() -> object:
        with forward_context(precision, device):
            loss = model(tokens, labels)
        return torch.autograd.grad(loss, parameters)

    return step


def _ops(parts: Parts, device: torch.device, dtype: torch.dtype) -> Ops:
    """The ops of the run; instead of one that is only for tests on a CPU, or of `auto`, the first that gives speed."""
    place = Place(device, dtype, step_shapes(parts))
    names = {"fp8": REFERENCE}
    for op, asked in parts.ops.backends().items():
        if op != "fp8":
            able = [name for name in BACKENDS[op] if reason_against(op, name, place) is None]
            names[op] = asked if asked in able else able[0]
    return Ops(**{op: load(op, name) for op, name in names.items()})
