"""The first of many ranks that are not there: the model is sharded over all of them on tensors without memory, and a
micro-batch is counted. Writes what it holds and sends to FILE."""

import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from litespark.benchmarks.traffic.counting import TrafficMode
from litespark.benchmarks.traffic.steps import COUNTED, _batch, as_on_gpu, ops_as_on_gpu
from litespark.models.spec import with_layers
from litespark.ops.backend import resolve
from litespark.run.composing import compose_parts
from litespark.training.model_builder import ModelBuilder
from litespark.training.parallel.precision import forward_context
from litespark.training.parallel.sharding import device_mesh, shard_model


def report(file: Path, overrides: list[str], layers: int | None, nodes: int, gpus: int) -> None:
    warnings.simplefilter("ignore")
    parts = compose_parts(overrides)
    model_of = parts.model if layers is None else with_layers(parts.model, layers)
    ops = resolve(ops_as_on_gpu(parts))  # asks a mesh, which is of one process before there is a group
    roles = parts.strategy.roles(nodes * gpus, gpus)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=nodes * gpus)
    mesh = device_mesh(roles, torch.device("cpu"))
    with as_on_gpu():
        # as `ModelBuilder.build`, up to the values
        builder = ModelBuilder(model_of, ops, 0, parts.recompute, parts.strategy, residual_dtype=torch.bfloat16)
        model = builder.unwritten()
        shard_model(model, model_of.units(model), mesh, parts.strategy, "bf16")
        batch = _batch(parts)
        mode = TrafficMode(model.parameters(), tokens=batch.token_count, pairs=batch.attention_pairs)
        with mode.counting():
            with forward_context("bf16", COUNTED):
                loss = parts.task.loss(model, batch)
            loss.backward()
        held = [sum(value.to_local().nbytes for value in values) for values in _of(model)]
    torch.save({"held": held, "sent": [tuple(one) for one in mode.phases[0].sent]}, file)


def _of(model: torch.nn.Module) -> tuple[list, list]:
    parameters = list(model.parameters())
    return parameters, [parameter.grad for parameter in parameters]
