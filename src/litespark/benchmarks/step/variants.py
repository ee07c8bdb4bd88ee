"""What `litespark bench step` compares: the Hugging Face baselines, ours, and train.py itself.

All of them train fp32 masters with AdamW states in fp32 and compute in the precision of the run.
"""

import importlib.util
from dataclasses import dataclass, replace

import torch

from litespark.benchmarks.session import NAME
from litespark.data.config import SyntheticConfig
from litespark.device import device_of
from litespark.metrics.records.step import VariantKind
from litespark.models.llama.huggingface_config import why_not_transformers
from litespark.models.spec import Recompute
from litespark.ops.choice import refusals
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.operands import MULTIPLE
from litespark.run.config import ConfigError, Parts
from litespark.run.measured_precision import precision_of
from litespark.run.preflight import idle_of, place_of
from litespark.training.optim import AdamWConfig


@dataclass(frozen=True)
class Variant:
    """One thing that is measured; `settings` make it from the benchmark's config, `about` says in a line what it is."""

    name: str
    kind: VariantKind
    settings: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class HuggingFaceSetup:
    """How a Hugging Face baseline trains, beyond the config.

    `attention` is transformers' implementation; `causal` is SDPA that is never given a mask, see
    `litespark.benchmarks.step.huggingface`.
    """

    about: str
    attention: str
    recompute: Recompute
    fused: bool  # AdamW as one kernel; else PyTorch's default (foreach on a GPU, a loop on a CPU)
    compiled: bool = False  # the whole model, the loss included
    fp8: bool = False  # torchao's tensorwise float8, but in the head
    liger: bool = False
    applied: bool = False  # `litespark.apply`


SETUPS = {
    "standard": HuggingFaceSetup(
        "Hugging Face Llama, eager attention, autocast, full recompute, AdamW not fused (PyTorch default)",
        "eager", "full", fused=False,
    ),
    "sdpa": HuggingFaceSetup(
        "Hugging Face Llama, SDPA, autocast, full recompute, AdamW not fused (PyTorch default)",
        "sdpa", "full", fused=False,
    ),
    "compiled": HuggingFaceSetup(
        "Hugging Face Llama, causal SDPA, torch.compile, autocast, no recompute, fused AdamW",
        "causal", "none", fused=True, compiled=True,
    ),
    "compiled_fp8": HuggingFaceSetup(
        "compiled, with torchao tensorwise float8 in all products but the head's",
        "causal", "none", fused=True, compiled=True, fp8=True,
    ),
    "liger": HuggingFaceSetup(
        "Hugging Face Llama with Liger's kernels, causal SDPA, autocast, no recompute, fused AdamW",
        "causal", "none", fused=True, liger=True,
    ),
    "applied": HuggingFaceSetup(
        "Hugging Face Llama with litespark.apply, autocast, no recompute, fused AdamW",
        "causal", "none", fused=True, applied=True,
    ),
}  # fmt: skip
HUGGINGFACE = {name: Variant(name, "huggingface", (), setup.about) for name, setup in SETUPS.items()}
TRAINER = Variant("train.py", "train.py", (), "train.py itself: data loading, metrics and Lightning's loop included")
# what ours is held against where it is not a model of others
OURS = {
    "bare": Variant("bare", "bare", (), "our model in the step of a textbook, without our step and Lightning"),
    "train.py": TRAINER,
}


def litespark_variant(name: str, settings: tuple[str, ...] = ()) -> Variant:
    """Ours, with `settings` laid over the benchmark's config; none: the config as it is."""
    about = f"Litespark with {' '.join(settings)}" if settings else "Litespark with the settings of the config"
    return Variant(name, "litespark", settings, about)


def parse(word: str) -> Variant:
    """The variant that a word of the command line means.

    A baseline's name, `litespark`, `bare`, `train.py`, or `NAME:override override …` for a combination of ours;
    `bare:…` and `train.py:…` are those two with the overrides.
    """
    name, colon, rest = word.partition(":")
    settings = tuple(rest.split())
    if name in HUGGINGFACE:
        if colon:
            raise ValueError(
                f"--variant: got {word!r}, expected {name!r} alone: a baseline is what it is; give the overrides to "
                "the whole benchmark"
            )
        return HUGGINGFACE[name]
    if name in OURS:
        plain = OURS[name]
        return replace(plain, settings=settings, about=f"{plain.about}; {rest}") if settings else plain
    if not NAME.fullmatch(name) or bool(colon) != bool(settings) or (not colon and name != "litespark"):
        known = ", ".join([*HUGGINGFACE, "litespark", *OURS])
        raise ValueError(
            f"--variant: got {word!r}, expected one of {known}, or settings as 'NAME:override override' "
            "(the name of letters, digits and .-_)"
        )
    return litespark_variant(name, settings)


def why_not(variant: Variant, device: torch.device, parts: Parts) -> str | None:
    """Why a variant, whose settings are in `parts`, cannot be measured here; with what would mend it."""
    if variant.kind == "huggingface":
        return _why_not_huggingface(SETUPS[variant.name], device, parts)
    try:
        precision = precision_of(parts, device)
    except ConfigError as error:
        return str(error)
    if variant.kind == "bare" and precision == "fp8":
        return "a bare loop renews no scales after a step; set precision=bf16, or leave it out"
    return "; ".join(refusals(parts.ops, place_of(parts, device, precision), idle_of(parts, precision))) or None


def masks_documents(parts: Parts) -> bool:
    """Whether attention of this config stays within documents."""
    endless = isinstance(parts.data, SyntheticConfig) and parts.data.document_length is None
    return bool(parts.data.document_mask) and not endless


def _why_not_huggingface(setup: HuggingFaceSetup, device: torch.device, parts: Parts) -> str | None:
    if not _installed("transformers"):
        return "transformers is not installed; pip install transformers"
    if masks_documents(parts):
        return "transformers' Llama cannot keep attention within documents; set data.document_mask=false"
    if type(parts.optim) is not AdamWConfig:
        return (
            "the baselines train with AdamW, and the config has another optimizer; leave optim=adamw and give the "
            "other one to a variant of Litespark ('NAME:optim=…')"
        )
    if (reason := why_not_transformers(parts.llama)) is not None:
        return f"{reason}; change model.hidden_size or model.num_heads"
    if parts.precision == "fp8" or (parts.precision == "auto" and precision_of(parts, device) == "fp8"):
        return (
            "the baselines compute in bf16, and compiled_fp8 is one of them; set precision=bf16 and give the other to "
            "a variant of Litespark ('litespark_fp8:precision=fp8')"
        )
    if (setup.fp8 or setup.liger) and not device_of(device).is_accelerator:
        return "float8 products need a GPU with fp8 units" if setup.fp8 else "Liger's kernels need a GPU"
    if setup.fp8 and (reason := without_units(device)) is not None:
        return reason
    for needed, package in ((setup.fp8, "torchao"), (setup.liger, "liger_kernel")):
        if needed and not _installed(package):
            name = package.replace("_", "-")
            return f"{name} is not installed; pip install {name}"
    if setup.fp8 and parts.precision == "fp32":
        return "float8 is measured beside bf16; set precision=bf16"
    model, tokens = parts.llama, parts.data.micro_batch_size * parts.data.seq_len
    heads = [count * (model.head_dim or 0) for count in (model.num_heads, model.num_kv_heads)]
    sizes = {model.hidden_size, model.intermediate_size, *heads, tokens}
    if setup.fp8 and (odd := sorted(size for size in sizes if size % MULTIPLE)):
        return f"float8 products need sizes that are multiples of {MULTIPLE}, got {', '.join(map(str, odd))}"
    return None


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
