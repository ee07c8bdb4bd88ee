"""`litespark bench traffic` from start to end: every variant is counted in this process, and the record is written."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.session import check_measurable, provenance, record_path
from litespark.benchmarks.step.variants import HUGGINGFACE, SETUPS, HuggingFaceSetup, masks_documents, why_not
from litespark.benchmarks.traffic.counting import Phase
from litespark.benchmarks.traffic.steps import (
    COUNTED,
    CountedDevice,
    counted,
    ops_as_on_gpu,
    precision_as_on_gpu,
)
from litespark.device import standing_in
from litespark.metrics.records.origin import DeviceRecord, Provenance
from litespark.metrics.records.traffic import (
    PHASES,
    ClassTraffic,
    Counts,
    FamiliesRecord,
    SavedBytes,
    TrafficRecord,
    TrafficVariant,
)
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts
from litespark.training.parallel.precision import Precision

OURS = "litespark"
EAGER = "eager"
# the strong baseline before it is compiled
_EAGER = dataclasses.replace(
    SETUPS["compiled"],
    about="Hugging Face Llama, causal SDPA, autocast, no recompute, fused AdamW, not compiled",
    compiled=False,
)
VARIANTS: dict[str, HuggingFaceSetup | None] = {
    OURS: None,
    EAGER: _EAGER,
    **{name: setup for name, setup in SETUPS.items() if not setup.fp8},
}


def bench_traffic(
    overrides: Sequence[str],
    *,
    variants: Sequence[str],
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
) -> tuple[TrafficRecord, Path]:
    """Count a step of a config, and write the record, counted/DATE_bench-traffic_MODEL_PRECISION.json in `output`.

    None of `variants` is all. A record of the same config is replaced: counts do not vary, so there is nothing to keep.
    """
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise ConfigError(f"--variant: got {', '.join(unknown)}, expected some of {', '.join(VARIANTS)}")
    parts = compose_parts(overrides)
    check_measurable(parts)
    record = _described(parts, overrides, command)
    for name in variants or VARIANTS:
        say(f"counting {name}")
        record.variants.append(_variant(name, VARIANTS[name], parts))
    return record, write_instead(record, output, "bench-traffic", record.model)


def write_instead(record: TrafficRecord | FamiliesRecord, output: Path, what: str, model: str) -> Path:
    """Write a record in place of earlier ones of the same config; its path."""
    path = record_path(output, record.provenance, what, model, record.precision)
    record.write(path)
    for earlier in path.parent.glob(f"*_{what}_{model}_{record.precision}*.json"):
        if earlier != path and type(record).read(earlier).asked() == record.asked():
            earlier.unlink()
    return path


def count_ours(parts: Parts) -> TrafficVariant:
    """Ours alone, as it stands in a record."""
    ops = ", ".join(f"{op} {name}" for op, name in ops_as_on_gpu(parts).backends().items())
    recompute = f"recompute {parts.recompute}"
    return _counted(TrafficVariant(OURS, f"Litespark with the settings of the config; {recompute}; {ops}"), parts, None)


def _described(parts: Parts, overrides: Sequence[str], command: Sequence[str]) -> TrafficRecord:
    precision = precision_as_on_gpu(parts)
    return TrafficRecord(
        counted_provenance(parts, overrides, command, precision),
        model=parts.llama.name,
        parameters=parts.llama.parameter_count(),
        num_layers=parts.llama.num_layers,
        micro_batch_size=parts.data.micro_batch_size,
        accumulate=parts.trainer.accumulate(parts.data.micro_batch_size, 1),
        seq_len=parts.data.seq_len,
        document_mask=masks_documents(parts),
        precision=precision,
        variants=[],
    )


def counted_provenance(
    parts: Parts, overrides: Sequence[str], command: Sequence[str], precision: Precision
) -> Provenance:
    """Where it was counted does not matter, and who reads it looks for it in one place."""
    origin = provenance(parts, overrides, command, COUNTED, precision)
    environment = dataclasses.replace(origin.environment, devices=[DeviceRecord("counted")])
    return dataclasses.replace(origin, environment=environment)


def _variant(name: str, setup: HuggingFaceSetup | None, parts: Parts) -> TrafficVariant:
    if setup is None:
        return count_ours(parts)
    with standing_in(CountedDevice):
        reason = why_not(HUGGINGFACE["compiled" if name == EAGER else name], COUNTED, parts)
    variant = TrafficVariant(name, setup.about, reason)
    return variant if reason is not None else _counted(variant, parts, setup)


def _counted(variant: TrafficVariant, parts: Parts, setup: HuggingFaceSetup | None) -> TrafficVariant:
    """The variant with its counts: those of a layer are the difference between two models, one a layer deeper."""
    # of ours in fp8 some layers may be in bf16; the others are what is counted
    fewest = 1 + (parts.fp8.bf16_first + parts.fp8.bf16_last if precision_as_on_gpu(parts) == "fp8" else 0)
    shallow, deep = (counted(_with_layers(parts, fewest + more), setup) for more in range(2))
    return with_counts(variant, shallow, deep, fewest)


def with_counts(variant: TrafficVariant, shallow: list[Phase], deep: list[Phase], fewest: int) -> TrafficVariant:
    """The variant with counts of a layer and of the rest, by a model of `fewest` layers and one with one more."""
    classes, saved = [], []
    for phase, less, more in zip(PHASES, shallow, deep, strict=True):
        for kernel_class in sorted({*less.classes, *more.classes}):
            layer = _of(more, kernel_class) - _of(less, kernel_class)
            rest = _of(less, kernel_class) - layer * fewest
            if layer != Counts() or rest != Counts():
                classes.append(ClassTraffic(phase, kernel_class, layer, rest))
        kept = more.saved - less.saved
        saved.append(SavedBytes(phase, kept, less.saved - fewest * kept))
    return dataclasses.replace(variant, classes=classes, saved=saved)


def _of(phase: Phase, kernel_class: str) -> Counts:
    return phase.classes.get(kernel_class, Counts())


def _with_layers(parts: Parts, layers: int) -> Parts:
    return dataclasses.replace(parts, model=dataclasses.replace(parts.llama, num_layers=layers))
