"""Checks that the parts of a run fit together and fit this machine, before anything heavy is built.

All problems are found in one go, each with what would mend it.
"""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from litespark.config.groups import classes_of
from litespark.data.config import PrepareConfig, SourceConfig, SyntheticConfig
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.prepare import ExamplesLookup
from litespark.data.examples.prepare import look_up as look_up_examples
from litespark.data.prepare.prepare import Lookup, look_up
from litespark.device import NoDeviceError, device_count, device_of, find
from litespark.launch import Ranks
from litespark.mesh import Mesh, Roles
from litespark.models.compilation import CompileMode
from litespark.models.huggingface.sizes import caps_scores
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.spec import ModelSpec, idle_ops, ops_without_a_layer
from litespark.ops.backend import AUTO, REFERENCE
from litespark.ops.choice import refusals
from litespark.ops.shapes import Place
from litespark.planning.memory import WEIGHT_BYTES, layers_that_fit, training_state_bytes
from litespark.run.adapter import why_no_adapter
from litespark.run.config import ConfigError, Parts
from litespark.run.cuda_graph import why_no_graph
from litespark.run.model_folder import check_tokenizer
from litespark.run.precision import computes_with_ops, decided, step_shapes, waits_for_accelerator
from litespark.run.record_ops import ChoiceRecord
from litespark.run.reward_models import parameters_of
from litespark.run.tensor_parallel import why_not_tensor
from litespark.tasks.task import NeedsTools, TakesFormats
from litespark.training.any_accelerator import why_no_ddp
from litespark.training.parallel.precision import Precision, activation_dtype, residual_dtype

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What the checks decided: the device of this rank, the precision, micro-batches per step (`accumulate`), the
    data of a new run of one process (of several, rank 0 looks for it), and what was measured to decide (`choices`);
    what is measured comes later, and is fp32 and not compiled here."""

    device: torch.device
    precision: Precision
    accumulate: int
    ranks: Ranks
    found: Lookup | ExamplesLookup | None = None
    mesh: Mesh = field(default_factory=Mesh, compare=False)
    compile_mode: CompileMode = "none"
    choices: tuple[ChoiceRecord, ...] = ()


def preflight(parts: Parts, ranks: Ranks) -> Machine:
    """Decide device and precision, and check all that needs no data; a ConfigError has every problem, one a line."""
    problems: list[str] = []
    device = _device(parts, ranks, problems)
    precision, reason = decided(parts, device, problems)
    accumulate, roles = 1, Roles()
    try:
        roles = parts.strategy.roles(ranks.world_size, ranks.local_world_size)
        accumulate = parts.trainer.accumulate(parts.data.micro_batch_size, roles.data)
    except ValueError as error:
        problems.append(str(error))
    problems += why_not_tensor(parts, roles)
    if parts.strategy.name == "ddp" and (reason_against := why_no_ddp(device)) is not None:
        problems.append(reason_against)
    if (too_long := why_not_length(parts)) is not None:
        problems.append(too_long)
    if parts.recompute not in parts.model.recompute_modes:
        problems.append(
            f"recompute={parts.recompute}: got model={parts.model.name}, expected one of its modes: "
            f"{', '.join(parts.model.recompute_modes)}"
        )
    problems += (against_adapter := why_no_adapter(parts, precision))
    # said already; the host in its place is not what counts
    if not waits_for_accelerator(parts, device) and not against_adapter:
        _check_memory(parts, ranks, roles, device, precision, problems)
        problems += why_no_graph(parts, device, precision)
        if computes_with_ops(parts):
            problems += _without_a_layer(parts)
            problems += refusals(parts.ops, place_of(parts, device, precision), idle_of(parts, precision))
    if parts.ops.compile == "model" and parts.strategy.shards:
        problems.append(
            f"ops.compile=model: got strategy={parts.strategy.name}, whose gathering between blocks one graph cannot "
            "hold; expected ops.compile=block"
        )
    _check_target(parts, problems)
    _check_format(parts, problems)
    if getattr(parts.data, "share_prompts", False) and (unable := _why_not_shared(parts)) is not None:
        problems.append(f"data.share_prompts=true: {unable}; set data.share_prompts=false")
    data = None
    if parts.resume is None and ranks.world_size == 1:  # a resume needs the prepared data only
        try:
            data = find_data(parts)
        except ValueError as error:
            problems.append(str(error))
    _check_writable(parts.logs, problems)
    if problems:
        raise ConfigError("this run cannot start here:\n" + "\n".join(f"- {problem}" for problem in problems))
    if reason and ranks.rank == 0:
        log.info("precision=auto: %s, since %s", precision, reason)
    compile_mode = "none" if parts.ops.compile == "auto" else parts.ops.compile
    return Machine(device, precision, accumulate, ranks, data, compile_mode=compile_mode)


def why_not_length(parts: Parts) -> str | None:
    """Why the model does not take the sequences; None: it does."""
    if parts.data.seq_len <= parts.model.max_seq_len:
        return None
    return (
        f"data.seq_len: got {parts.data.seq_len}, expected at most model.max_seq_len = {parts.model.max_seq_len}; "
        f"lower the one{'' if parts.from_folder else ' or raise the other'}"
    )


def _device(parts: Parts, ranks: Ranks, problems: list[str]) -> torch.device:
    try:
        device = find(parts.trainer.accelerator, 0)
    except NoDeviceError as error:
        problems.append(
            f"{error}; run this on a machine that has one, or try the experiment cut down on a CPU: "
            "trainer.accelerator=cpu precision=fp32 model.num_layers=1 data=synthetic data.seq_len=64 "
            "data.micro_batch_size=1 trainer.global_batch_size=1 budget.steps=2"
        )
        return torch.device("cpu")
    if device.index is None:  # the CPU, which processes share
        return device
    if ranks.local_rank >= device_count():
        problems.append(
            f"got {ranks.local_world_size} processes on this machine and {device_count()} devices ({device.type}), "
            f"expected a device for each; start torchrun --nproc-per-node={device_count()}, or with srun as many tasks "
            "a node as it has devices, each of which sees all of them (without --gpus-per-task)"
        )
        return torch.device(device.type, 0)
    return torch.device(device.type, ranks.local_rank)


def measurable_layers(model: ModelSpec, device: torch.device) -> int:
    """How many of the model's layers a benchmark can train on `device`: all, where its memory cannot be read."""
    there = device_of(device).memory_bytes
    return model.num_layers if there is None else layers_that_fit(model, there)


def place_of(parts: Parts, device: torch.device, precision: Precision) -> Place:
    """Where the ops of a run compute, and at which sizes."""
    dtype, stream = activation_dtype(precision, device), residual_dtype(parts.residual, precision, device)
    fp8 = parts.fp8 if precision == "fp8" else None
    softcap = isinstance(parts.model, HuggingFaceConfig) and caps_scores(parts.model.transformers)
    return Place(
        device,
        dtype,
        step_shapes(parts),
        dtype == torch.bfloat16,
        fp8,
        stream,
        parts.ops.cuda_graph,
        softcap,
        getattr(parts.data, "share_prompts", False),
    )


def idle_of(parts: Parts, precision: Precision) -> frozenset[str]:
    return idle_ops(parts.recompute, fp8=precision == "fp8") | ops_without_a_layer(parts.model)


def _without_a_layer(parts: Parts) -> list[str]:
    """Ops asked for by name that no layer of the model comes to run with."""
    idle = ops_without_a_layer(parts.model)
    return [
        f"ops.{op}: got {name}, which no layer of model={parts.model.name} runs with; set ops.{op}={AUTO}"
        for op, name in parts.ops.backends().items()
        if op in idle and name not in (AUTO, REFERENCE)
    ]


def keeps_casts(parts: Parts, precision: Precision, device: torch.device) -> bool:
    """Whether the weights of blocks are held in bf16, cast once a step; those of a frozen model once, and alone.

    Not where they are sharded, nor where what is trained is compiled.
    """
    whole = not parts.strategy.shards and (parts.ops.compile == "none" or parts.adapter is not None)
    return whole and activation_dtype(precision, device) == torch.bfloat16


def _check_memory(
    parts: Parts, ranks: Ranks, roles: Roles, device: torch.device, precision: Precision, problems: list[str]
) -> None:
    on_cpu, there = not device_of(device).is_accelerator, device_of(device).memory_bytes
    shards = roles.shard * roles.tensor
    fp8 = parts.fp8 if precision == "fp8" else None
    trained = None if parts.adapter_counts is None else parts.adapter_counts.trained
    sampling = parts.task if isinstance(parts.task, NeedsTools) else None
    needed = training_state_bytes(
        parts.model,
        shards,
        parts.optim,
        fp8,
        keeps_casts=keeps_casts(parts, precision, device),
        trained=trained,
        reference=sampling is not None and sampling.keeps_reference and trained is None,
    )
    if sampling is not None:  # reward models are whole on every rank
        needed += sum(WEIGHT_BYTES * count for count in parameters_of(sampling.reward_models).values())
    processes = ranks.local_world_size if on_cpu else 1
    if there is None or needed * processes <= there:
        return
    fewer = "" if parts.from_folder else f"set model.num_layers={layers_that_fit(parts.model, there // processes)}, or "
    # of all devices together (processes on a CPU share the same memory), and one more for the activations
    devices, here = -(-needed * shards // there) + 1, 1 if on_cpu else device_count()
    problems.append(
        f"memory: weights, gradients and optimizer states of {parts.model.name} "
        f"({parts.model.parameter_count() / 1e9:.2f} B parameters) take {needed * processes / 2**30:.1f} GiB before "
        f"any activation, and {'this host' if on_cpu else device_of(device).name} has {there / 2**30:.1f} GiB; "
        f"{fewer}shard it over {devices} "
        f"{'hosts' if on_cpu else 'devices'}: torchrun "
        f"--nnodes={-(-devices // here)} --nproc-per-node={min(devices, here)} train.py strategy=fsdp"
    )


def _check_target(parts: Parts, problems: list[str]) -> None:
    against = []
    if parts.trainer.validate_every is None:
        against.append(
            "got trainer.validate_every=null, expected steps between validations, which alone can tell that "
            "it is reached; set trainer.validate_every=100"
        )
    if isinstance(parts.data, SyntheticConfig):
        against.append("got data=synthetic, whose random ids have no bits per byte; set data=standard_library")
    if not parts.task.measures_text:
        against.append(f"got task={parts.task.name}, which does not measure bits per byte; set budget.target_bpb=null")
    if (target := parts.budget.target_bpb) is not None:
        problems += [f"budget.target_bpb={target}: {reason}" for reason in against]


def _check_format(parts: Parts, problems: list[str]) -> None:
    got = parts.data.format if isinstance(parts.data, ExamplesConfig) else "text"
    if isinstance(parts.task, TakesFormats) and got not in (taken := parts.task.data_formats):
        kinds = classes_of("task").items()
        tasks = [f"task={name}" for name, kind in kinds if isinstance(kind, TakesFormats) and got in kind.data_formats]
        problems.append(
            f"task={parts.task.name}: got data of {got}, expected {' or '.join(taken)}; choose data={taken[0]}, or "
            f"{' or '.join(tasks)} with this data"
        )


def _why_not_shared(parts: Parts) -> str | None:
    """Why a model cannot read sequences that share their beginning; None where it can."""
    model = parts.model
    if not isinstance(model, HuggingFaceConfig):
        return None
    if "attention" in model.idle_ops or model.counts.counted or model.counts.uncounted:
        return f"got model={model.name} with layers that are no attention of ours, expected none"
    if windows := [
        window for _, window in model.counts.attention if window is not None and window < parts.data.seq_len
    ]:
        return f"got model={model.name} with a window of {min(windows)}, expected at least data.seq_len"
    if parts.ops.attention == REFERENCE:
        return f"got ops.attention={REFERENCE} with model={model.name}, expected sdpa or auto"
    return None


def find_data(parts: Parts) -> Lookup | ExamplesLookup | None:
    """The prepared data of a new run, or the plan of it; None where its data is made up."""
    data, weights = parts.data, parts.weights
    if not isinstance(data, SourceConfig):
        return None
    is_of_weights = weights is not None and data.tokenizer == weights.path
    if weights is not None and is_of_weights and weights.tokenizer is None:
        raise ConfigError(
            f"model.path={weights.path}: got no tokenizer there, expected one, since data.tokenizer names none; set "
            "data.tokenizer to that of these weights, or allow_other_tokenizer=true to train a new one"
        )
    known: Lookup | ExamplesLookup
    if isinstance(data, ExamplesConfig):
        known = look_up_examples(data)
    else:
        assert isinstance(data, PrepareConfig)
        known = look_up(data)
    if data.tokenizer is not None and not is_of_weights:
        check_tokenizer(weights, parts.allow_other_tokenizer, data.tokenizer)
    return known


def _check_writable(logs: Path, problems: list[str]) -> None:
    """Try what the run will do, since permissions and mounts can only be known by trying."""
    probe = logs / "runs" / f".probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)  # a run on another machine may have a process of the same number
    except OSError as error:
        problems.append(f"paths.logs: cannot write below {logs} ({error}); set paths.logs to a writable folder")
