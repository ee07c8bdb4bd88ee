"""The preparations of a corpus with and without data selection, which are then trained on."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.training.corpus import KIND_FIELD, TEXT_FIELD, CorpusSettings, build_corpus
from litespark.benchmarks.training.variants import SELECTION, Composed, Variant
from litespark.data.config import PrepareConfig
from litespark.data.manifest import FILE as MANIFEST_FILE
from litespark.data.modules import build_data_module
from litespark.data.select.select import check_selection
from litespark.data.stream.modules import TokenDataModule
from litespark.metrics.records.training import Corpus, Dropped, PreparedCorpus
from litespark.override_text import hydra_text
from litespark.run.build import check_vocabulary
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts

_RULE = "selection/"


def with_and_without(overrides: Sequence[str]) -> tuple[list[str], list[Variant]]:
    """The overrides without their `data.selection`, and the variants: none of it, and that, or the web's."""
    selection = [word for word in overrides if word.lstrip("+~").startswith(("data.selection.", "data/selection="))]
    everything, selected = SELECTION.variants
    others = [word for word in overrides if word not in selection]
    return others, [everything, Variant(selected.name, tuple(selection) or selected.settings)]


def prepare_variants(
    overrides: Sequence[str],
    variants: Sequence[Variant],
    settings: CorpusSettings,
    logs: Path,
    say: Callable[[str], None],
) -> tuple[Corpus, list[Composed]]:
    """Write the corpus and prepare it for each variant, or find that done.

    All have one tokenizer, the first variant's: with another a token would be other bytes.
    """
    parts = compose_parts(overrides)
    assert isinstance(parts.data, PrepareConfig)
    for variant in variants[1:]:  # before minutes are spent on the text
        data = compose_parts([*overrides, *variant.settings]).data
        assert isinstance(data, PrepareConfig)
        if not data.selection.any:
            raise ConfigError(f"{' '.join(variant.settings)}: selects nothing, expected rules to hold against none")
        check_selection(data.selection)
    folder, corpus = build_corpus(parts.data, settings, below=logs)
    common = [
        *overrides,
        # that read the corpus, whatever was given for the source that its clean text came from
        "data=text",
        f"data.source={hydra_text(str(folder))}",
        f"data.root={hydra_text(str(logs / 'prepared'))}",
        f"data.text_field={TEXT_FIELD}",
        f"data.domain_field={KIND_FIELD}",
        *(f"data.{name}=null" for name in ("name", "max_bytes", "max_files", "training_sequences", "mixture")),
        "data.mixture_temperature=1.0",
    ]
    tokenizer = parts.data.tokenizer
    composed = []
    for variant in variants:
        own = [f"data.tokenizer={hydra_text(tokenizer)}"] if tokenizer else []
        overrides = [*common, *own, *variant.settings]
        say(f"{variant.name}: preparing")
        theirs = compose_parts(overrides)
        where, prepared = _prepare(theirs)
        composed.append(Composed(variant, overrides, theirs, prepared))
        tokenizer = tokenizer or str(where)
    return corpus, composed


def _prepare(parts: Parts) -> tuple[Path, PreparedCorpus]:
    before = set(Path(parts.data.root).glob(f"*/{MANIFEST_FILE}"))
    began = time.perf_counter()
    data = build_data_module(parts.data, seed=parts.seed)
    seconds = time.perf_counter() - began
    assert isinstance(data, TokenDataModule)
    check_vocabulary(parts, data.manifest)
    split, held_out = data.manifest.splits["train"], data.manifest.splits["validation"].domains
    # of all tokens that are validated on, and what ids mean: equal for equal text under one tokenizer
    chunks = [[name, [chunk.sha256 for chunk in held_out[name].chunks]] for name in sorted(held_out)]
    digest = hashlib.sha256(json.dumps([data.manifest.tokenizer_hash, chunks]).encode()).hexdigest()
    return data.folder, PreparedCorpus(
        manifest_hash=data.manifest.hash,
        validation_hash=digest,
        train_documents=split.documents,
        train_tokens=split.tokens,
        prepare_seconds=None if data.folder / MANIFEST_FILE in before else seconds,
        dropped=[
            Dropped(row.rule.removeprefix(_RULE), row.domain, row.documents, row.bytes, row.tokens)
            for row in data.manifest.dropped.rows
            if row.split == "train" and row.rule.startswith(_RULE)
        ],
    )
