"""`litespark bench selection` from start to end: the corpus, both preparations, and the runs that take turns.

Both variants have one tokenizer, one stream of seeds, as many tokens, and the same clean validation text; they differ
in `data.selection` alone. The same command continues what was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from litespark.benchmarks.device import device_for
from litespark.benchmarks.provenance import provenance
from litespark.benchmarks.record_path import continued, record_path
from litespark.benchmarks.selection.corpus import build_corpus
from litespark.benchmarks.selection.preparing import Compose, of_selection, prepared, reading
from litespark.benchmarks.selection.reading import read_run
from litespark.benchmarks.training_runs.launch import Ended, Training, train
from litespark.benchmarks.training_runs.settings import check_seeds, refuse_a_variant, refuse_what_runs_cannot_have
from litespark.benchmarks.training_runs.turns import Turns
from litespark.data.config import PrepareConfig, SyntheticConfig
from litespark.data.selection.select import check_selection
from litespark.experiment.build import token_budget
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.precision import precision_of
from litespark.metrics.records.selection import (
    SelectionModel,
    SelectionRecord,
    SelectionRun,
    SelectionVariant,
)
from litespark.override_text import hydra_text
from litespark.ranges import Count, Range, Seed, check_ranges

WHAT = "bench-selection"
ALL, SELECTED = "all", "selected"
DEFAULT_SELECTION = ("data/selection=web",)
_NO_SELECTION = ("data/selection=none",)


@dataclass(frozen=True)
class SelectionSettings:
    """How it is run.

    Attributes:
        seeds: one run of every variant for each.
        clean_bytes: of clean text for training.
        planted: bytes of junk and copies for each clean one.
        planted_seed: of what is planted.
    """

    seeds: tuple[Seed, ...] = (1,)
    clean_bytes: Count = 2_000_000
    planted: Annotated[float, Range(at_least=0, at_most=1000)] = 1.0
    planted_seed: Seed = 1

    def __post_init__(self) -> None:
        check_ranges(self, options=True)
        check_seeds(self.seeds)


def bench_selection(
    compose: Compose,
    overrides: Sequence[str],
    settings: SelectionSettings,
    *,
    command: Sequence[str],
    script: Path,
    output: Path,
    say: Callable[[str], None],
    launch: Callable[[Training], Ended] = train,
) -> tuple[SelectionRecord, Path]:
    """Prepare, train, and write the record after every run.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, as the user gave them; `data.source` is where clean text is taken from, and what they
            say of `data.selection` is the second variant (`data/selection=web` where they say nothing).
        settings: how it is run.
        command: the words that get it again, for the record.
        script: `train.py`.
        output: folder of records; the file is DEVICE/DATE_bench-selection_MODEL_PRECISION.json in it.
        say: is told what is being done.
        launch: replaced in tests.

    Raises:
        ValueError: the config cannot be trained so, the text or a library is missing.
        OSError: the record cannot be written.
    """
    selection = [word for word in overrides if of_selection(word)] or list(DEFAULT_SELECTION)
    others = [word for word in overrides if not of_selection(word)]
    parts = compose(others)
    check(parts, overrides)
    assert isinstance(parts.data, PrepareConfig)
    _check_rules(compose([*others, *selection]), selection)
    logs = parts.logs.absolute() / "selection"
    folder, corpus = build_corpus(
        parts.data,
        clean_bytes=settings.clean_bytes,
        planted=settings.planted,
        seed=settings.planted_seed,
        below=logs,
    )
    common = [*others, *reading(folder, logs)]
    everything = prepared(compose, [*common, *_NO_SELECTION], ALL, _NO_SELECTION, say)
    # its own tokenizer would be made for other text, and a token would be other bytes
    common.append(f"data.tokenizer={hydra_text(parts.data.tokenizer or str(everything.data.folder))}")
    selected = prepared(compose, [*common, *selection], SELECTED, selection, say)
    device = device_for(parts.trainer.accelerator)
    precision = precision_of(parts, device)
    budget = token_budget(everything.parts, everything.data.manifest)
    assert parts.trainer.validate_every is not None
    new = SelectionRecord(
        provenance=provenance(parts, overrides, command, device, precision),
        model=SelectionModel(
            parts.model.name,
            parts.model.parameter_count(),
            parts.data.sequence_length,
            parts.trainer.batch_rows,
            parts.trainer.validate_every,
            budget.planned_tokens(),
        ),
        precision=precision,
        corpus=corpus,
        tokenizer_hash=everything.data.manifest.tokenizer_hash,
        seeds=list(settings.seeds),
        variants=[everything.variant, selected.variant],
    )
    new.check()
    origin = new.provenance
    path = record_path(output, origin.environment, WHAT, new.model.name, new.precision, origin.time)
    record, path = continued(new, path, read=SelectionRecord.read, unfinished=lambda each: _continues(each, new))
    if record is not new:
        say(f"{path}: continued, {sum(len(each.runs) for each in record.variants)} runs are there")
    record.write(path)  # what cannot be written is known before minutes are spent
    words = {each.variant.name: each.words for each in (everything, selected)}

    def training(variant: SelectionVariant, seed: int, seconds: float | None) -> Training:
        own = words[variant.name]
        return Training.of(record.provenance, variant.name, seed, own, script=script, logs=logs, seconds=seconds)

    def read(variant: SelectionVariant, folder: Path, seed: int, position: int) -> SelectionRun:
        return read_run(folder, seed=seed, position=position, manifest_hash=variant.manifest_hash)

    Turns(record, training, read, _said, save=lambda: record.write(path), say=say, launch=launch).take()
    return record, path


def _said(run: SelectionRun) -> str:
    return f"{run.bits_per_byte:.4f} bits/byte after {run.train_seconds:.1f} s"


def check(parts: Parts, overrides: Sequence[str]) -> None:
    """Refuse a config that cannot be trained with and without selection.

    Raises:
        ConfigError: naming what to change.
    """
    refuse_a_variant(overrides)
    refuse_what_runs_cannot_have(parts)
    if isinstance(parts.data, SyntheticConfig):
        raise ConfigError("data=synthetic: there is nothing to select; expected text, as data=installed_packages")
    if parts.trainer.validate_every is None:
        raise ConfigError(
            "trainer.validate_every: got null, expected the steps between two validations, which tell when equal "
            "quality is reached; set trainer.validate_every=50"
        )


def _check_rules(parts: Parts, words: Sequence[str]) -> None:
    """Refuse, before minutes are spent on the text, rules that select nothing or cannot run here."""
    assert isinstance(parts.data, PrepareConfig)
    if not parts.data.selection.any:
        raise ConfigError(f"{' '.join(words)}: selects nothing, expected rules to hold against none of them")
    check_selection(parts.data.selection)


def _continues(found: SelectionRecord, new: SelectionRecord) -> bool:
    """Whether `found` lacks runs, and those of `new` may stand beside the ones that it has."""

    def identity(record: SelectionRecord) -> tuple[object, ...]:
        origin = record.provenance
        variants = [(each.name, each.settings, each.manifest_hash) for each in record.variants]
        return (origin.source_hash, origin.config_hash, origin.environment, record.model, record.precision,
                record.corpus, record.seeds, variants)  # fmt: skip

    return not found.complete and identity(found) == identity(new)
