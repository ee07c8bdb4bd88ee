"""Inside the fresh process: builds one variant, takes its steps, and answers with their figures."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import torch

from litespark.benchmarks.step.huggingface import HuggingFaceTraining
from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.stepping import Training, step_batches, take_steps, tokens_hash
from litespark.benchmarks.step.training import BareTraining, LitesparkTraining
from litespark.benchmarks.step.training_script import run_training_script
from litespark.benchmarks.step.variants import SETUPS
from litespark.data.manifest import Manifest
from litespark.data.modules import build_data_module
from litespark.data.stream.modules import SequenceDataModule
from litespark.device import device_of, out_of_memory
from litespark.launch import Ranks
from litespark.metrics.meters import choose_meter
from litespark.metrics.records.step import RoundRecord
from litespark.models.llama.model import Llama
from litespark.models.spec import Recompute
from litespark.ops.backend import OpsConfig
from litespark.ops.choice import described
from litespark.run.build import check_vocabulary, construct_module, token_budget
from litespark.run.composing import compose_parts
from litespark.run.config import Parts
from litespark.run.measured_compile import with_measured_compile
from litespark.run.measured_precision import with_measured_precision
from litespark.run.preflight import Machine, preflight
from litespark.run.train import quieten
from litespark.training.budget import BudgetConfig
from litespark.training.module import TrainingModule


def measure(values: dict[str, Any]) -> Any:
    """The `RoundRecord` of a `Request`, both as plain values."""
    request = Request(**values)
    return json.loads(measured(compose_parts(request.overrides), request).check())


def measured(parts: Parts, request: Request) -> RoundRecord:
    """As `measure`, of a composed config."""
    return out_of_memory_answered(parts, request, run_training_script if request.kind == "train.py" else _measure)


def out_of_memory_answered(parts: Parts, request: Request, take: Callable[..., RoundRecord]) -> RoundRecord:
    """What `take` comes to with the asked config, or that the device's memory did not suffice, which is an answer."""
    parts = asked_parts(parts, request)
    try:
        return take(parts, request)
    except Exception as error:
        line = out_of_memory(error)
        if line is None:
            raise
        return request.record("out of memory", _recompute(parts, request), error=line)


def asked_parts(parts: Parts, request: Request) -> Parts:
    """The config with what the request changes: layers, recompute, the length, and the sequences that are held out."""
    return dataclasses.replace(
        parts,
        model=dataclasses.replace(parts.llama, num_layers=request.layers or parts.llama.num_layers),
        recompute=(None if request.kind == "huggingface" else request.recompute) or parts.recompute,
        budget=BudgetConfig(steps=request.warmup_steps + request.steps),
        data=dataclasses.replace(parts.data, validation_sequences=request.loss_sequences),
    )


def prepare(parts: Parts, request: Request) -> tuple[Machine, SequenceDataModule, Training]:
    """The machine and the data of the process, and the variant with its optimizer, ready for the first step."""
    quieten()
    machine = with_measured_precision(parts, preflight(parts, Ranks.from_environment()))
    machine = with_measured_compile(parts, machine, token_budget(parts).planned_steps())
    device_of(machine.device).use()
    torch.manual_seed(parts.seed)
    data = build_data_module(parts.data, seed=parts.seed)
    check_vocabulary(parts, data.manifest)
    if request.kind == "huggingface":
        weights = initial_weights(parts, machine, data.manifest)
        setup = SETUPS[request.variant]
        return machine, data, HuggingFaceTraining(setup, parts, machine, weights, _recompute(parts, request))
    module, detail = _module(parts, machine, data.manifest)
    training = BareTraining if request.kind == "bare" else LitesparkTraining
    return machine, data, training(module, parts, machine, detail)


def initial_weights(parts: Parts, machine: Machine, manifest: Manifest) -> Llama:
    """Our model as a run would start from it, on the CPU and with the reference ops: for its weights."""
    parts = dataclasses.replace(
        parts, ops=OpsConfig(), recompute="none", callbacks=dataclasses.replace(parts.callbacks, verify="never")
    )
    module, _ = _module(parts, dataclasses.replace(machine, device=torch.device("cpu")), manifest)
    assert isinstance(module.model, Llama)
    return module.model


def _module(parts: Parts, machine: Machine, manifest: Manifest) -> tuple[TrainingModule, str]:
    """The module as a run builds it, and which ops were chosen."""
    module, choices = construct_module(parts, machine, manifest)
    return module, described(choices, reasons=True)


def _recompute(parts: Parts, request: Request) -> Recompute:
    """What the variant makes again in its backward pass."""
    if request.kind == "huggingface":
        return request.recompute or SETUPS[request.variant].recompute
    return parts.recompute


def _measure(parts: Parts, request: Request) -> RoundRecord:
    machine, data, training = prepare(parts, request)
    device = device_of(machine.device)
    batches = step_batches(parts, machine, data.train_dataloader(), request.warmup_steps + request.steps)
    meter = choose_meter(machine.device)
    device.reset_peak()
    figures = take_steps(
        training, batches, warmup=request.warmup_steps, meter=meter, device=device, started=request.started
    )
    peak = device.peak_bytes()
    loss = training.held_out_loss(data.val_dataloader())
    if not math.isfinite(loss):
        raise ArithmeticError(f"the held-out loss was {loss}")
    counted = batches[request.warmup_steps :]
    return request.record(
        "measured",
        training.recompute,
        tokens=sum(batch.tokens for batch in counted),
        attention_pairs=sum(batch.attention_pairs for batch in counted),
        peak_memory_mib=None if peak is None else peak / 2**20,
        loss=loss,
        tokens_hash=tokens_hash(batches),
        detail=training.detail,
        **figures,
    )
