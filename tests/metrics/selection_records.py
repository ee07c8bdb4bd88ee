"""Records of `litespark bench selection` with figures that are easy to work out by hand."""

from __future__ import annotations

from litespark.metrics.records.bench import Provenance
from litespark.metrics.records.run import DeviceRecord, EnvironmentRecord
from litespark.metrics.records.selection import (
    SelectionCorpus,
    SelectionKind,
    SelectionLeftOut,
    SelectionModel,
    SelectionRecord,
    SelectionRun,
    SelectionVariant,
)
from litespark.metrics.records.training_runs import CurvePoint

NO_JOULES = "no counter here"
BUDGET = 1000


def run(seed: int, *bits: float, joules: float | None = None, position: int = 0) -> SelectionRun:
    """A run with one validation every 500 tokens and 50 s; `joules` a second, or none."""
    curve = [
        CurvePoint(50 * place, 500 * place, 50.0 * place, value, None if joules is None else joules * 50 * place)
        for place, value in enumerate(bits, start=1)
    ]
    last = curve[-1]
    return SelectionRun(
        seed=seed,
        position=position,
        tokens=last.tokens,
        train_seconds=last.seconds,
        bits_per_byte=last.bits_per_byte,
        joules=last.joules,
        joules_method=None if joules is None else "counter",
        joules_reason=NO_JOULES if joules is None else None,
        curve=curve,
    )


def two_seeds(joules: float | None = 10.0) -> SelectionRecord:
    """Selection leaves half of the tokens; it is 0.5 and 0.1 bits better, and as good after half and all of it."""
    everything = SelectionVariant(
        "all", ["data/selection=none"], "one", "held out", 100, 2000, 10.0,
        runs=[run(1, 3.0, 2.5, joules=joules), run(2, 3.0, 2.0, joules=joules, position=1)],
    )  # fmt: skip
    selected = SelectionVariant(
        "selected", ["data/selection=web"], "two", "held out", 60, 1000, 30.0,
        left_out=[
            SelectionLeftOut("c4/curly_bracket", "junk", 10, 300, 90),
            SelectionLeftOut("exact_duplicate", "clean", 4, 40, 20),
            SelectionLeftOut("language", "junk", 18, 600, 500),
            SelectionLeftOut("c4/too_few_sentences", "junk", 8, 50, 10),
        ],
        runs=[run(1, 2.4, 2.0, joules=joules, position=1), run(2, 2.2, 1.9, joules=joules)],
    )  # fmt: skip
    return SelectionRecord(
        provenance=Provenance(
            time="2026-01-31T12:00:00+00:00",
            command=["litespark", "bench", "selection"],
            overrides=[],
            git_commit="abc",
            git_dirty=False,
            source_hash="source",
            config_hash="config",
            environment=EnvironmentRecord("3.11", "2.11", "Linux", "a CPU", 1, "fp32", devices=[DeviceRecord("a CPU")]),
        ),
        model=SelectionModel("tiny", 1_300_000, 10, 1, 50, BUDGET),
        precision="fp32",
        corpus=SelectionCorpus(
            "text", 1, "hash", [SelectionKind("clean", 60, 1000), SelectionKind("junk", 40, 1000)], 7, 700
        ),
        tokenizer_hash="tokenizer",
        seeds=[1, 2],
        variants=[everything, selected],
        complete=True,
    )
