"""What a benchmark of whole steps begins with: everything that is decided before the first process is started."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from litespark.benchmarks.provenance import provenance
from litespark.benchmarks.rates import measured_rates
from litespark.benchmarks.step.settings import StepSettings
from litespark.benchmarks.step.variants import Variant, masks_documents, why_not
from litespark.data.config import PrepareConfig
from litespark.device import find
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.precision import precision_of
from litespark.experiment.preflight import measurable_layers, place_of
from litespark.experiment.variant import KEY
from litespark.launch import Ranks
from litespark.metrics.records.step import FloorPart, Protocol, RatesRecord, StepModel, StepRecord, VariantRecord
from litespark.models.floor import FloorPrecision, Rates, cast_bytes, floor
from litespark.models.flops import causal_mean_keys, hardware_flops_per_token, model_flops_per_token
from litespark.training.optim import AdamWConfig
from litespark.training.strategies import Precision, activation_dtype

Compose = Callable[[Sequence[str]], Parts]

# a variant may differ from the others in anything else
_THE_SAME_FOR_ALL = ("model", "data", "task", "seed", "initial_weights", "strategy")


@dataclass(frozen=True)
class Decided:
    """What is measured, and on what.

    Attributes:
        parts: the benchmark's config, its model cut to the layers that are measured; `layers_whole` is uncut.
        variants: each with the config that its settings make.
    """

    parts: Parts
    layers_whole: int
    device: torch.device
    precision: Precision
    variants: list[tuple[Variant, Parts]]


def begin(
    compose: Compose,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: StepSettings,
    command: Sequence[str],
) -> StepRecord:
    """The record of a benchmark that has everything but its rounds; takes the seconds of the probes of rates.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, as the user gave them.
        variants: in the order in which they take turns.
        settings: how it is run.
        command: the words that get it again.

    Raises:
        ValueError: the config cannot be measured, or a variant changes what must be the same for all.
    """
    decided = decide(compose, overrides, variants, settings)
    record = described(decided, overrides, settings, command)
    add_rates(record, decided)
    return record


def shared_overrides(overrides: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The overrides that every variant has: what the user gave, and whole rows where Hugging Face takes part.

    Hugging Face Llama does not keep attention within the documents of a row, so nobody does then.
    """
    return [*overrides, *(["data.document_mask=false"] if "huggingface" in kinds else [])]


def decide(compose: Compose, overrides: Sequence[str], variants: Sequence[Variant], settings: StepSettings) -> Decided:
    """Compose the config of each variant, and check that they can be compared on this machine.

    Raises:
        ValueError: as `begin`.
    """
    names = [each.name for each in variants]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--variant: got {', '.join(names) or 'none'}, expected at least one and each once")
    shared = shared_overrides(overrides, [each.kind for each in variants])
    parts = compose(shared)
    _check(parts)
    if any(each.startswith(f"{KEY}=") for each in overrides) and any(each.settings for each in variants):
        raise ConfigError(
            f"{KEY}=…: got settings that are laid over those of every --variant, expected plain overrides; leave "
            f"{KEY}=… out and write key=value"
        )
    composed = [(each, compose([*shared, *each.settings]) if each.settings else parts) for each in variants]
    for variant, theirs in composed:
        _check_same(variant, theirs, parts)
    device = find(parts.trainer.accelerator)
    precision = precision_of(parts, device)
    whole = parts.llama.num_layers
    if settings.layers is not None and settings.layers > whole:
        raise ConfigError(f"--layers: got {settings.layers}, expected at most the model's {whole}")
    layers = settings.layers or measurable_layers(parts.llama, device)
    parts = dataclasses.replace(parts, model=dataclasses.replace(parts.llama, num_layers=layers))
    return Decided(parts, whole, device, precision, composed)


def _check(parts: Parts) -> None:
    ranks = Ranks.from_environment()
    if ranks.world_size > 1 or parts.strategy.name != "single":
        raise ConfigError(
            f"got {ranks.world_size} processes and strategy={parts.strategy.name}, expected one process and "
            "strategy=single: the baselines know no other"
        )
    if parts.resume is not None:
        raise ConfigError(f"resume={parts.resume}: the benchmark starts from initial weights; leave it out")
    if parts.data.seq_len > parts.llama.max_seq_len:
        raise ConfigError(
            f"data.seq_len: got {parts.data.seq_len}, expected at most model.max_seq_len = "
            f"{parts.llama.max_seq_len}; lower the one or raise the other"
        )


def _check_same(variant: Variant, theirs: Parts, parts: Parts) -> None:
    # as they were resolved: a task is an object without an equality of its own
    different = [name for name in _THE_SAME_FOR_ALL if theirs.resolved[name] != parts.resolved[name]]
    if theirs.trainer.global_batch_size != parts.trainer.global_batch_size:
        different.append("trainer.global_batch_size")
    if different:
        raise ConfigError(
            f"--variant {variant.name}: got settings that change {', '.join(different)}, expected the same model and "
            "tokens for every variant; give them as overrides of the whole benchmark instead"
        )


def described(decided: Decided, overrides: Sequence[str], settings: StepSettings, command: Sequence[str]) -> StepRecord:
    """The record without rates and floors, which take seconds to measure."""
    parts, length = decided.parts, decided.parts.data.seq_len
    causal = causal_mean_keys(length)
    model = StepModel(
        name=parts.llama.name,
        parameters=parts.llama.parameter_count(),
        num_layers=parts.llama.num_layers,
        layers_whole=decided.layers_whole,
        flops_per_token_causal=model_flops_per_token(parts.llama, causal),
        flops_per_token_full=model_flops_per_token(parts.llama, length),
        flops_per_token_recomputed=hardware_flops_per_token(parts.llama, causal, "full"),
    )
    protocol = Protocol(
        micro_batch_size=parts.data.micro_batch_size,
        accumulate=parts.trainer.accumulate(parts.data.micro_batch_size, 1),
        seq_len=length,
        warmup_steps=settings.warmup_steps,
        steps=settings.steps,
        rounds=settings.rounds,
        data=_data_name(parts),
        document_mask=masks_documents(parts),
        precision=decided.precision,
        loss_rows=settings.loss_rows,
    )
    variants = [
        VariantRecord(
            name=variant.name,
            kind=variant.kind,
            settings=list(variant.settings),
            about=variant.about,
            reason=why_not(variant, decided.device, theirs),
        )
        for variant, theirs in decided.variants
    ]
    origin = provenance(parts, overrides, command, decided.device, decided.precision)
    return StepRecord(origin, model, protocol, RatesRecord(), variants)


def _data_name(parts: Parts) -> str:
    """What the tokens are, without folders of the machine."""
    if not isinstance(parts.data, PrepareConfig):
        return "synthetic"
    return parts.data.name or Path(parts.data.source).name


def add_rates(record: StepRecord, decided: Decided) -> None:
    """Measure what the device reaches; from it the floor of each variant, and what its casts cost where it has some."""
    parts = decided.parts
    place = place_of(parts, decided.device, decided.precision)
    record.rates = measured_rates(parts.llama, place, peak_flops=parts.metrics.peak_flops)
    for index, (_, theirs) in enumerate(decided.variants):
        variant = record.variants[index]
        if variant.reason is not None:
            continue
        about = variant.about
        if variant.kind != "huggingface" and _computes_in(variant, theirs, decided.device) == "fp8":
            about += f"; {_casts(theirs, record, decided)}"
        record.variants[index] = dataclasses.replace(
            variant, about=about, floor=_floor(variant, theirs, record, decided)
        )


def _casts(theirs: Parts, record: StepRecord, decided: Decided) -> str:
    """What a variant of ours in fp8 moves beside bf16, in words."""
    model, protocol = decided.parts.llama, record.protocol
    shapes = model.step_shapes(protocol.micro_batch_size, protocol.seq_len, documents=protocol.document_mask)
    added = sum(each.added for each in cast_bytes(model, shapes, theirs.fp8, accumulate=protocol.accumulate))
    said = f"its casts move {added / 1e9:+.3g} GB a step against bf16"
    if record.rates.copy_bytes is not None:
        said += f", {1e3 * added / record.rates.copy_bytes:+.3g} ms at the rate of copies"
    return f"fp8 SIMULATED, whose speed says nothing; {said}" if theirs.fp8.simulate else said


def _floor(variant: VariantRecord, theirs: Parts, record: StepRecord, decided: Decided) -> list[FloorPart]:
    """The floor of a step over whole causal rows; nothing where a rate that it needs was not measured.

    Nor with another optimizer than AdamW, of whose work the floor is made.
    """
    rates, protocol = record.rates, record.protocol
    if type(theirs.optim) is not AdamWConfig:
        return []
    precision = _computes_in(variant, theirs, decided.device)
    # the rate of products was measured in the dtype of activations, which fp8 shares with bf16 for its head
    wide = "bf16" if activation_dtype(decided.precision, decided.device) == torch.bfloat16 else "fp32"
    if precision != wide and (precision, wide) != ("fp8", "bf16"):
        return []
    if rates.matmul_flops is None or rates.copy_bytes is None:
        return []
    if precision == "fp8" and rates.fp8_matmul_flops is None:
        return []
    model = decided.parts.llama
    parts = floor(
        model,
        model.step_shapes(protocol.micro_batch_size, protocol.seq_len, documents=protocol.document_mask),
        accumulate=protocol.accumulate,
        rates=Rates(rates.matmul_flops, rates.copy_bytes, rates.attention_flops, rates.fp8_matmul_flops),
        itemsize=4 if precision == "fp32" else 2,
        precision=precision,
        mean_keys=causal_mean_keys(protocol.seq_len),
    )
    return [FloorPart(name, milliseconds) for name, milliseconds in parts.items()]


def _computes_in(variant: VariantRecord, theirs: Parts, device: torch.device) -> FloorPrecision:
    if variant.kind == "huggingface" and variant.name.endswith("_fp8"):
        return "fp8"
    return precision_of(theirs, device)
