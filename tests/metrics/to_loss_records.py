"""Records of `litespark bench to-loss` with figures that are easy to work out by hand."""

from __future__ import annotations

from litespark.metrics.records.bench import Provenance
from litespark.metrics.records.run import DeviceRecord, EnvironmentRecord
from litespark.metrics.records.to_loss import (
    ToLossRecord,
    ToLossRun,
    ToLossVariant,
)
from litespark.metrics.records.training_runs import CurvePoint, TrainedModel, TrainedStream

TARGET = 2.0
NO_JOULES = "no counter here"


def run(seed: int, *points: tuple[int, float, float], joules: float | None = None, position: int = 0) -> ToLossRun:
    """A run whose validations are (tokens, seconds, bits per byte); `joules` a second, or none."""
    curve = [
        CurvePoint(tokens // 10, tokens, seconds, bits, None if joules is None else joules * seconds)
        for tokens, seconds, bits in points
    ]
    last = curve[-1]
    return ToLossRun(
        seed=seed,
        position=position,
        reached=last.bits_per_byte <= TARGET,
        step=last.step,
        tokens=last.tokens,
        train_seconds=last.seconds,
        best_bits_per_byte=min(point.bits_per_byte for point in curve),
        final_bits_per_byte=last.bits_per_byte,
        joules=last.joules,
        joules_method=None if joules is None else "counter",
        joules_reason=NO_JOULES if joules is None else None,
        curve=curve,
    )


def record(*variants: ToLossVariant, seeds: tuple[int, ...] = (1, 2)) -> ToLossRecord:
    found = ToLossRecord(
        provenance=Provenance(
            time="2026-01-31T12:00:00+00:00",
            command=["litespark", "bench", "to-loss"],
            overrides=[],
            git_commit="abc",
            git_dirty=False,
            source_hash="source",
            config_hash="config",
            environment=EnvironmentRecord("3.11", "2.11", "Linux", "a CPU", 1, "fp32", devices=[DeviceRecord("a CPU")]),
        ),
        target_bits_per_byte=TARGET,
        model=TrainedModel("tiny", 1_300_000),
        stream=TrainedStream("text", "hash", 256, 8, 64, 10, 100_000),
        precision="fp32",
        seeds=list(seeds),
        variants=list(variants),
    )
    found.complete = not any(True for _ in found.missing())
    return found


def two_seeds(joules: tuple[float, float] | None = (100.0, 150.0)) -> ToLossRecord:
    """The reference takes 1000 and 2000 tokens at 10 tokens/s, ours half the tokens at 5 times that.

    The tokens to the target, over the reference's: 0.5 and 0.75.
    """
    reference, ours = (None, None) if joules is None else joules
    return record(
        ToLossVariant(
            "reference",
            ["ops=reference"],
            [
                run(1, (500, 50.0, 2.5), (1000, 100.0, 1.9), joules=reference),
                run(2, (1000, 100.0, 2.4), (2000, 200.0, 2.0), joules=reference, position=1),
            ],
        ),
        ToLossVariant(
            "ours",
            ["ops=litespark", "optim=muon"],
            [
                run(1, (500, 10.0, 1.8), joules=ours, position=1),
                run(2, (1000, 20.0, 2.1), (1500, 30.0, 1.9), joules=ours),
            ],
        ),
    )
