"""What records of benchmarks have in common that train every variant with every seed: validations, turns, rules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from litespark.metrics.records.strict_json import RecordError


@dataclass
class CurvePoint:
    """One validation: input tokens and train seconds up to it, and train joules where they were measured."""

    step: int
    tokens: int
    seconds: float
    bits_per_byte: float
    joules: float | None = None


@dataclass
class RunFailure:
    """A run that ended with an error."""

    seed: int
    error: str


@dataclass
class TrainedModel:
    """The model that all variants train."""

    name: str
    parameters: int


@dataclass
class TrainedStream:
    """What all runs read and when they look: rows of S tokens, in an order that the seed decides.

    Attributes:
        name, manifest_hash: of the prepared data.
        validation_rows: on which the bits per byte are taken; None: all that there are.
        validate_every: steps between two validations, and so how finely a target can be told.
        budget_tokens: after which a run ends that does not end before; an estimate where rows are padded.
    """

    name: str
    manifest_hash: str
    sequence_length: int
    batch_rows: int
    validation_rows: int | None
    validate_every: int
    budget_tokens: int


def spends(tokens: int, budget: int, tokens_per_step: int) -> bool:
    """Whether a run of so many tokens ended with its budget, which is exact to a step where rows are padded."""
    return abs(tokens - budget) < tokens_per_step


class Trained(Protocol):
    """A variant with the runs that it has."""

    name: str

    def run(self, seed: int) -> object | None:
        """Its run with a seed, or None."""
        ...


V = TypeVar("V", bound=Trained)


def missing_runs(variants: Sequence[V], seeds: Sequence[int]) -> Iterator[tuple[V, int, int]]:
    """(variant, seed, position) of every run that is not there.

    Variants take turns and every second seed has them in reverse, so that a machine that slows down favours none.
    """
    for index, seed in enumerate(seeds):
        turns = variants if index % 2 == 0 else variants[::-1]
        for position, variant in enumerate(turns):
            if variant.run(seed) is None:
                yield variant, seed, position


def require_variants_and_seeds(variants: Sequence[Trained], seeds: Sequence[int], *, least: int) -> None:
    """Raise RecordError unless there are `least` variants and a seed at least, each once."""
    names = [each.name for each in variants]
    if len(names) < least or len(set(names)) < len(names):
        number = "one" if least == 1 else "two"
        raise RecordError(f"variants: got the names {names}, expected at least {number} and each once")
    if not seeds or len(set(seeds)) < len(seeds):
        raise RecordError(f"seeds: got {seeds}, expected at least one and each once")


def require_completeness(complete: bool, variants: Sequence[Trained], seeds: Sequence[int]) -> None:
    """Raise RecordError unless `complete` says whether every variant has a run of every seed."""
    if complete == any(True for _ in missing_runs(variants, seeds)):
        raise RecordError(f"complete: got {complete}, expected whether every variant has a run of every seed")


def require_seeds_of_runs(variant: str, found: Sequence[int], seeds: Sequence[int]) -> None:
    """Raise RecordError where the runs of a variant have seeds that are not the benchmark's, or one twice."""
    if len(set(found)) < len(found) or not set(found) <= set(seeds):
        raise RecordError(f"variants.{variant}.runs: got the seeds {found}, expected some of {seeds}")


def curve_contradictions(curve: Sequence[CurvePoint]) -> Iterator[str]:
    """What cannot be true of the validations of one run."""
    if not curve:
        yield "curve: got no validation, expected at least one"
        return
    for earlier, later in itertools.pairwise(curve):
        if not (earlier.step < later.step and earlier.tokens < later.tokens and earlier.seconds <= later.seconds):
            yield f"curve: got step {later.step} after step {earlier.step}, expected steps, tokens and seconds to grow"
    if not (curve[0].tokens > 0 and curve[0].seconds > 0 and min(each.bits_per_byte for each in curve) > 0):
        yield "curve: expected tokens, seconds and bits per byte above 0"
