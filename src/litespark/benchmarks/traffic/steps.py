"""Counts a whole step of a variant as an H200 would run it, on tensors without memory: a few seconds on any CPU."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torchmetrics import MeanMetric

from litespark.benchmarks.profile.scopes import annotated
from litespark.benchmarks.step.huggingface import HuggingFaceTraining
from litespark.benchmarks.step.stepping import StepBatch, Training
from litespark.benchmarks.step.training import LitesparkTraining
from litespark.benchmarks.step.variants import HuggingFaceSetup, masks_documents
from litespark.benchmarks.traffic.counting import Phase, TrafficMode
from litespark.benchmarks.traffic.inductor import scheduled
from litespark.data.batch import TokenBatch
from litespark.device import Device, standing_in
from litespark.launch import Ranks
from litespark.models.llama.model import Llama
from litespark.models.spec import TakesFp8
from litespark.ops.backend import AUTO, BACKENDS, OpsConfig, resolve
from litespark.ops.choice import reason_against, refusals
from litespark.ops.triton_support import TARGETS, recording
from litespark.planning.op_costs import pairs_within_sequences
from litespark.run.build import token_budget
from litespark.run.config import ConfigError, Parts
from litespark.run.measured_precision import precision_of
from litespark.run.precision import step_shapes
from litespark.run.preflight import Machine, idle_of, place_of
from litespark.training.model_builder import ModelBuilder
from litespark.training.module import TrainingModule
from litespark.training.parallel.precision import Precision, residual_dtype

COUNTED = torch.device("cpu")
# the first micro-batch makes gradients, a later one adds to them
_MICRO_BATCHES = 2


class CountedDevice(Device):
    """What is asked of an H200 by code that chooses between devices, answered for tensors without memory."""

    is_accelerator = True
    multiplies_fp32_fastest = False
    is_nvidia_or_amd = True
    is_nvidia = True
    capability = (9, 0)
    name = "NVIDIA H200"


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within it code on the CPU runs as on an H200, and tensors have no memory."""
    with ExitStack() as stack:
        for module in (_foreach_utils, optimizer):  # which kernels over lists of tensors are for
            kinds = [*module._foreach_supported_types, FakeTensor]
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", kinds))
        stack.enter_context(
            mock.patch.object(optimizer, "_get_foreach_kernels_supported_devices", return_value=["cpu"])
        )
        for context in (warnings.catch_warnings(), standing_in(CountedDevice), recording(TARGETS["sm_90"])):
            stack.enter_context(context)
        stack.enter_context(FakeTensorMode())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def counted(parts: Parts, setup: HuggingFaceSetup | None = None) -> list[Phase]:
    """Of one step of ours, or of a Hugging Face model: its first micro-batch, a later one, and what follows the last.

    It is the second step: the first makes the states of the optimizer, and of fp8 the first scales.
    """
    with as_on_gpu():
        training: Any = _huggingface(parts, setup) if setup is not None else _ours(parts)
        batch = StepBatch([_batch(parts) for _ in range(_MICRO_BATCHES)], parts.optim.lr)
        (part, *_) = batch.batches
        mode = TrafficMode(training.model.parameters(), tokens=part.token_count, pairs=part.attention_pairs)
        with ExitStack() as stack:
            if setup is not None and setup.compiled:
                training.forward = stack.enter_context(scheduled(training.model, mode.launch_fused))
            else:
                stack.enter_context(annotated(training.model))
            stack.enter_context(mode.counting())
            training.step(StepBatch(batch.batches[:1], batch.learning_rate))
            mode.restart()
            training.step(batch)
        return mode.phases


def precision_as_on_gpu(parts: Parts) -> Precision:
    """The precision of a config on an H200."""
    with standing_in(CountedDevice):
        return precision_of(parts, COUNTED)


def ops_as_on_gpu(parts: Parts) -> OpsConfig:
    """The backends that a config names, and in place of `auto` those that are expected to be the fastest on an H200."""
    with standing_in(CountedDevice):
        machine = _machine(parts)
        place, idle = place_of(parts, COUNTED, machine.precision), idle_of(parts, machine.precision)
        if refused := refusals(parts.ops, place, idle):
            raise ConfigError("\n".join(refused))
        chosen: dict[str, Any] = {}
        for op, asked in parts.ops.backends().items():
            able = [name for name in BACKENDS[op] if reason_against(op, name, place) is None]
            # cuDNN's kernels, which take no mask
            fastest = "sdpa" if op == "attention" and not masks_documents(parts) else able[0]
            chosen[op] = fastest if asked == AUTO else asked
    return dataclasses.replace(parts.ops, **chosen)


def _machine(parts: Parts) -> Machine:
    return Machine(COUNTED, precision_of(parts, COUNTED), _MICRO_BATCHES, Ranks(1, 0, 0, 1))


def _ours(parts: Parts) -> Training:
    if parts.ops.compile != "none":
        raise ConfigError(f"ops.compile: got {parts.ops.compile}, expected none: what it fuses of ours is not counted")
    machine = _machine(parts)
    with unset_fake_temporarily():  # it copies its state, which without memory cannot be
        metrics = MeanMetric()
    module = TrainingModule(
        builder=_builder(parts, machine),
        task=parts.task,
        metrics=metrics,
        optimizer=parts.optim,
        schedule=parts.schedule,
        budget=token_budget(parts),
    )
    module.model = _built(module.builder)
    return LitesparkTraining(module, parts, machine, "")


def _builder(parts: Parts, machine: Machine) -> ModelBuilder:
    fp8 = parts.fp8 if machine.precision == "fp8" else None
    stream = residual_dtype(parts.residual, machine.precision, COUNTED)
    ops = resolve(ops_as_on_gpu(parts))
    return ModelBuilder(parts.model, ops, 0, parts.recompute, residual_dtype=stream, fp8=fp8)


def _built(builder: ModelBuilder) -> nn.Module:
    """The model as it stands before values are drawn: on fake tensors `ModelBuilder.build` cannot leave meta."""
    model = builder.unwritten()
    if builder.fp8 is not None:
        assert isinstance(builder.spec, TakesFp8)
        builder.spec.enable_fp8(model, builder.fp8, builder.ops.fp8)
    return model


def _huggingface(parts: Parts, setup: HuggingFaceSetup) -> Training:
    machine = _machine(parts)
    weights = _built(dataclasses.replace(_builder(parts, machine), fp8=None, recompute="none"))
    assert isinstance(weights, Llama)
    eager = dataclasses.replace(setup, compiled=False)
    return HuggingFaceTraining(eager, parts, machine, weights, setup.recompute)


def _batch(parts: Parts) -> TokenBatch:
    """A micro-batch of whole sequences; where documents are masked each sequence is one."""
    size, length = parts.data.micro_batch_size, parts.data.seq_len
    tokens, labels = (torch.zeros(size, length, dtype=torch.int64) for _ in range(2))
    documents = positions = bounds = None
    if masks_documents(parts):
        documents, positions = torch.zeros(size, length, dtype=torch.int32), torch.zeros_like(tokens)
        bounds = torch.zeros(size + 1, dtype=torch.int32)
    pairs = pairs_within_sequences(step_shapes(parts))
    return TokenBatch(tokens, labels, positions, documents, size * length, size * length, pairs, bounds)
