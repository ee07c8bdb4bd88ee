"""What a benchmark of whole steps begins with: everything that is decided before the first process is started."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from litespark.benchmarks.rates import measured_rates
from litespark.benchmarks.session import check_measurable, check_plain, provenance
from litespark.benchmarks.step.variants import Variant, masks_documents, why_not
from litespark.config.settings import settings
from litespark.data.config import PrepareConfig
from litespark.device import find
from litespark.metrics.records.step import Protocol, RatesRecord, RooflinePart, StepModel, StepRecord, VariantRecord
from litespark.planning.flops import causal_mean_keys, hardware_flops_per_token, model_flops_per_token
from litespark.planning.roofline import RooflinePrecision, roofline
from litespark.ranges import Minutes, Repeats, Seconds
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts
from litespark.run.measured_precision import precision_of
from litespark.run.preflight import measurable_layers, place_of
from litespark.training.optim import AdamWConfig
from litespark.training.parallel.precision import Precision, activation_dtype

# a variant may differ from the others in anything else
_THE_SAME_FOR_ALL = ("model", "model_folder", "data", "task", "seed", "strategy", "resume")


@settings(
    "--",
    options={
        "warmup_steps": "--warmup",
        "loss_sequences": "loss_sequences",
        "process_timeout": "process_timeout",
    },
)
class StepSettings:
    """How it is run, beside the config; see `Protocol` and `litespark.benchmarks.step.session.StepTurns`."""

    rounds: Repeats = 3
    warmup_steps: Repeats = 5
    steps: Repeats = 20
    loss_sequences: Repeats = 8
    minutes: Minutes | None = None
    layers: Repeats | None = None  # None: all of the model, or as many as fit the device
    process_timeout: Seconds = 900.0


@dataclass(frozen=True)
class Decided:
    """What is measured, and on what: the model of `parts` is cut to the layers that are measured."""

    parts: Parts
    overrides: list[str]
    layers_whole: int
    device: torch.device
    precision: Precision
    variants: list[tuple[Variant, Parts]]

    @property
    def layers(self) -> int | None:
        """Of a model that was cut; None: it is whole."""
        layers = self.parts.llama.num_layers
        return layers if layers < self.layers_whole else None


def decide(overrides: Sequence[str], variants: Sequence[Variant], settings: StepSettings) -> Decided:
    """Compose the config of each variant, and check that they can be compared on this machine.

    Hugging Face Llama does not keep attention within the documents of a sequence, so no variant does beside it.
    """
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--variant: got {', '.join(names) or 'none'}, expected at least one and each once")
    shared = list(overrides)
    if any(variant.kind == "huggingface" for variant in variants):
        shared.append("data.document_mask=false")
    parts = compose_parts(shared)
    check_measurable(parts)
    check_plain(overrides)
    composed = [
        (variant, compose_parts([*shared, *variant.settings]) if variant.settings else parts) for variant in variants
    ]
    for variant, theirs in composed:
        _check_same(variant, theirs, parts)
    device = find(parts.trainer.accelerator)
    precision = precision_of(parts, device)
    whole = parts.llama.num_layers
    if settings.layers is not None and settings.layers > whole:
        raise ConfigError(f"--layers: got {settings.layers}, expected at most the model's {whole}")
    layers = settings.layers or measurable_layers(parts.llama, device)
    parts = dataclasses.replace(parts, model=dataclasses.replace(parts.llama, num_layers=layers))
    return Decided(parts, shared, whole, device, precision, composed)


def _check_same(variant: Variant, theirs: Parts, parts: Parts) -> None:
    # as they were resolved: a task is an object without an equality of its own
    different = [name for name in _THE_SAME_FOR_ALL if theirs.resolved.get(name) != parts.resolved.get(name)]
    if theirs.trainer.global_batch_size != parts.trainer.global_batch_size:
        different.append("trainer.global_batch_size")
    if different:
        raise ConfigError(
            f"--variant {variant.name}: got settings that change {', '.join(different)}, expected the same model and "
            "tokens for every variant; give them as overrides of the whole benchmark instead"
        )


def described(decided: Decided, overrides: Sequence[str], settings: StepSettings, command: Sequence[str]) -> StepRecord:
    """The record without rates and rooflines, which take seconds to measure."""
    parts, length = decided.parts, decided.parts.data.seq_len
    causal = causal_mean_keys(length)
    prepared = parts.data if isinstance(parts.data, PrepareConfig) else None
    # without folders of the machine
    data = "synthetic" if prepared is None else prepared.name or Path(prepared.source).name
    return StepRecord(
        provenance=provenance(parts, overrides, command, decided.device, decided.precision),
        model=StepModel(
            name=parts.llama.name,
            parameters=parts.llama.parameter_count(),
            num_layers=parts.llama.num_layers,
            layers_whole=decided.layers_whole,
            flops_per_token_causal=model_flops_per_token(parts.llama, causal),
            flops_per_token_full=model_flops_per_token(parts.llama, length),
            flops_per_token_recomputed=hardware_flops_per_token(parts.llama, causal, "full"),
        ),
        protocol=Protocol(
            micro_batch_size=parts.data.micro_batch_size,
            accumulate=parts.trainer.accumulate(parts.data.micro_batch_size, 1),
            seq_len=length,
            warmup_steps=settings.warmup_steps,
            steps=settings.steps,
            rounds=settings.rounds,
            data=data,
            document_mask=masks_documents(parts),
            precision=decided.precision,
            loss_sequences=settings.loss_sequences,
        ),
        rates=RatesRecord(),
        variants=[
            VariantRecord(one.name, one.kind, list(one.settings), one.about, why_not(one, decided.device, theirs))
            for one, theirs in decided.variants
        ],
    )


def add_rates(record: StepRecord, decided: Decided) -> None:
    """Measure what the device reaches, where the record has no rates; from it the roofline of each variant.

    It is that of a step over whole causal sequences.
    """
    if record.rates.matmul_flops is not None:
        return
    parts, accumulate = decided.parts, record.protocol.accumulate
    place = place_of(parts, decided.device, decided.precision)
    record.rates = measured_rates(place, peak_flops=parts.metrics.peak_flops)
    # products are measured in one precision; the head is in bf16 where the rest is in fp8
    wide = "bf16" if activation_dtype(decided.precision, decided.device) == torch.bfloat16 else "fp32"
    measured = ("bf16", "fp8") if wide == "bf16" else ("fp32",)
    for index, (_, theirs) in enumerate(decided.variants):
        variant = record.variants[index]
        if variant.reason is not None:
            continue
        theirs_in_fp8 = variant.kind == "huggingface" and variant.name.endswith("_fp8")
        precision: RooflinePrecision = "fp8" if theirs_in_fp8 else precision_of(theirs, decided.device)
        bounds, about = [], variant.about
        if precision in measured and type(theirs.optim) is AdamWConfig:  # the bound is of AdamW's work
            by_class = roofline(
                parts.llama,
                place.shapes,
                record.rates,
                precision=precision,
                accumulate=accumulate,
                mean_keys=causal_mean_keys(record.protocol.seq_len),
            )
            bounds = [RooflinePart(kernel_class, milliseconds) for kernel_class, milliseconds in by_class.items()]
        if variant.kind != "huggingface" and precision == "fp8" and theirs.fp8.simulate:
            about += "; fp8 SIMULATED, whose speed says nothing"
        record.variants[index] = dataclasses.replace(variant, about=about, roofline=bounds)
