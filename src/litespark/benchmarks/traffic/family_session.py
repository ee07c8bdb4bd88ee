"""`litespark bench traffic --families` from start to end: every family in every variant, and the record is written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.session import check_measurable
from litespark.benchmarks.traffic.families import FAMILY_VARIANTS, counted_family, why_not_family
from litespark.benchmarks.traffic.family_models import FAMILY_MODELS, FamilyModel
from litespark.benchmarks.traffic.session import counted_provenance, with_counts, write_instead
from litespark.benchmarks.traffic.steps import precision_as_on_gpu
from litespark.metrics.records.traffic import FamiliesRecord, FamilyTraffic, TrafficVariant
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError


def bench_families(
    overrides: Sequence[str],
    *,
    variants: Sequence[str],
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
) -> tuple[FamiliesRecord, Path]:
    """Count a micro-batch of a config in every family, and write the record, as `bench_traffic`."""
    if unknown := [name for name in variants if name not in FAMILY_VARIANTS]:
        raise ConfigError(f"--variant: got {', '.join(unknown)}, expected some of {', '.join(FAMILY_VARIANTS)}")
    parts = compose_parts(overrides)
    check_measurable(parts)
    if (precision := precision_as_on_gpu(parts)) != "bf16":
        raise ConfigError(f"precision: got {precision}, expected bf16, in which families are counted")
    sequences, length = parts.data.micro_batch_size, parts.data.seq_len
    record = FamiliesRecord(
        counted_provenance(parts, overrides, command, precision),
        sequences=sequences,
        seq_len=length,
        precision=precision,
        families=[],
    )
    for name, family in FAMILY_MODELS.items():
        say(f"counting {name}")
        counted = [count_family(family, one, sequences, length) for one in variants or FAMILY_VARIANTS]
        record.families.append(FamilyTraffic(name, family.name, counted))
    return record, write_instead(record, output, "bench-families", "dense")


def count_family(family: FamilyModel, name: str, sequences: int, length: int) -> TrafficVariant:
    """One variant of a family, as it stands in a record."""
    variant = TrafficVariant(name, FAMILY_VARIANTS[name], why_not_family(name))
    if variant.reason is not None:
        return variant
    shallow, deep = (counted_family(family, name, layers, sequences, length) for layers in (1, 2))
    return with_counts(variant, shallow, deep, 1)
