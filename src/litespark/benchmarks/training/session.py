"""A benchmark of variants × seeds from start to end: runs that take turns, saved one by one.

The same command continues what was stopped: runs that are in the record stay, one that was under way goes on from where
it was saved.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.session import begin, provenance, record_path
from litespark.benchmarks.training.corpus import CorpusSettings
from litespark.benchmarks.training.preparation import prepare_variants, with_and_without
from litespark.benchmarks.training.runs import Training, Turns, train
from litespark.benchmarks.training.variants import Composed, Question, Variant, check_question, check_variants
from litespark.child_process import Ended
from litespark.config.settings import settings
from litespark.data.modules import build_data_module
from litespark.device import find
from litespark.metrics.records.training import Corpus, Stream, TrainedModel, TrainedVariant, TrainingRecord
from litespark.ranges import InnerShare, Minutes, Seed
from litespark.run.build import check_vocabulary, token_budget
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts
from litespark.run.measured_precision import precision_of


@settings("--", kw_only=True)
class TrainingSettings:
    """How it is run.

    Attributes:
        minutes: after which the run that is under way is stopped and saved; None: never.
        bound: share by which the bits per byte of a variant may be above those of the first; None: not judged.
        corpus: that variants prepare with and without data selection; None: all train on `data`.
    """

    seeds: tuple[Seed, ...] = (1,)
    minutes: Minutes | None = None
    bound: InnerShare | None = None
    corpus: CorpusSettings | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds: got {list(self.seeds)}, expected whole numbers, each once; set --seeds 1,2,3")


def seeds_of(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--seeds: got {text!r}, expected whole numbers with commas between: 1,2,3") from error


def bench_training(
    question: Question,
    overrides: Sequence[str],
    settings: TrainingSettings,
    variants: Sequence[Variant] = (),
    *,
    command: Sequence[str],
    script: Path,
    output: Path,
    say: Callable[[str], None],
    launch: Callable[[Training], Ended] = train,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[TrainingRecord, Path]:
    """Train, and write the record after every run, as DEVICE/DATE_bench-QUESTION_MODEL_PRECISION.json in `output`.

    Args:
        overrides: of the config, as the user gave them. With a corpus, `data.source` is where clean text is taken from,
            and what they state of `data.selection` makes the second variant.
        variants: in place of the question's; the first is what the others are held against.
        command: to reproduce it; script: `train.py`; `launch` and `clock` are for tests.
    """
    began = clock()
    plain, variants = overrides, variants or question.variants
    if settings.corpus is not None:
        plain, variants = with_and_without(overrides)
    parts = compose_parts(plain)
    check_question(question, parts, overrides, variants)
    logs = parts.logs.absolute() / question.name
    corpus: Corpus | None = None
    if settings.corpus is None:
        lists = [[*plain, *variant.settings] for variant in variants]
        made = [Composed(variant, given, compose_parts(given)) for variant, given in zip(variants, lists, strict=True)]
        check_variants(parts, made)
    else:
        corpus, made = prepare_variants(plain, variants, settings.corpus, logs, say)
        check_variants(made[0].parts, made)
    new = new_record(made, settings, corpus, parts, overrides, command)
    path = record_path(output, new.provenance, f"bench-{question.name}", new.model.name, new.precision)
    record, path = begin(new, path, done=lambda old: f"{sum(len(one.runs) for one in old.variants)} runs", say=say)
    overrides_of = {variant.variant.name: variant.overrides for variant in made}
    deadline = None if settings.minutes is None else began + 60 * settings.minutes
    Turns(record, path, overrides_of, parts, script, logs, say, launch, clock, deadline).take()
    return record, path


def new_record(
    made: Sequence[Composed],
    settings: TrainingSettings,
    corpus: Corpus | None,
    parts: Parts,
    overrides: Sequence[str],
    command: Sequence[str],
) -> TrainingRecord:
    """The record without runs; prepares the text where that was not done before."""
    device = find(parts.trainer.accelerator)
    precisions = [precision_of(variant.parts, device) for variant in made]
    first = made[0].parts
    data = build_data_module(first.data, seed=first.seed)
    check_vocabulary(first, data.manifest)
    assert first.trainer.validate_every is not None
    return TrainingRecord(
        provenance=provenance(parts, overrides, command, device, precisions[0]),
        model=TrainedModel(name=first.model.name, parameters=first.model.parameter_count()),
        stream=Stream(
            name=data.manifest.name,
            manifest_hash=data.manifest.hash,
            seq_len=first.data.seq_len,
            global_batch_size=first.trainer.global_batch_size,
            validation_sequences=first.data.validation_sequences,
            validate_every=first.trainer.validate_every,
            budget_tokens=token_budget(first, data.manifest).planned_tokens(),
        ),
        precision=precisions[0],
        seeds=list(settings.seeds),
        variants=[TrainedVariant(its.variant.name, list(its.variant.settings), its.prepared) for its in made],
        target_bits_per_byte=parts.budget.target_bpb,
        bound=settings.bound,
        corpus=corpus,
    )
