"""The two preparations of the corpus: what they are told, what comes out, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from litespark.benchmarks.selection.corpus import KIND_FIELD, TEXT_FIELD
from litespark.benchmarks.selection.reading import left_out, validation_hash
from litespark.data.manifest import FILE as MANIFEST_FILE
from litespark.data.streaming import TokenDataModule, build_data_module
from litespark.experiment.build import check_vocabulary
from litespark.experiment.config import Parts
from litespark.metrics.records.selection import SelectionVariant
from litespark.override_text import hydra_text

Compose = Callable[[Sequence[str]], Parts]


@dataclass(frozen=True)
class Prepared:
    """A variant that is ready to be trained: the overrides that make it, and what they make."""

    words: list[str]
    parts: Parts
    data: TokenDataModule
    variant: SelectionVariant


def prepared(
    compose: Compose, words: list[str], name: str, settings: Sequence[str], say: Callable[[str], None]
) -> Prepared:
    """Prepare a variant, or find it prepared.

    Args:
        compose: makes a config of overrides.
        words: that make the variant's; settings: those of them that make it from the benchmark's.
        name: of the variant.
        say: is told of it.

    Raises:
        ValueError: the text cannot be prepared so.
    """
    parts = compose(words)
    root = Path(parts.data.root)
    before = set(root.glob(f"*/{MANIFEST_FILE}"))
    say(f"{name}: preparing")
    began = time.perf_counter()
    data = build_data_module(parts.data, seed=parts.seed)
    seconds = time.perf_counter() - began
    assert isinstance(data, TokenDataModule)
    check_vocabulary(parts, data.manifest)
    train_split = data.manifest.splits["train"]
    variant = SelectionVariant(
        name=name,
        settings=list(settings),
        manifest_hash=data.manifest.hash,
        validation_hash=validation_hash(data.manifest),
        train_documents=train_split.documents,
        train_tokens=train_split.tokens,
        prepare_seconds=None if data.folder / MANIFEST_FILE in before else seconds,
        left_out=left_out(data.manifest),
    )
    return Prepared(words, parts, data, variant)


def of_selection(word: str) -> bool:
    """Whether an override says something of `data.selection`."""
    return word.lstrip("+~").startswith(("data.selection.", "data/selection="))


def reading(folder: Path, logs: Path) -> list[str]:
    """The overrides that read the corpus, whatever was said of the source that its clean text came from."""
    return [
        "data=text",
        f"data.source={hydra_text(str(folder))}",
        f"data.root={hydra_text(str(logs / 'prepared'))}",
        f"data.text_field={TEXT_FIELD}",
        f"data.domain_field={KIND_FIELD}",
        "data.name=null",
        "data.max_bytes=null",
        "data.max_files=null",
        "data.training_rows=null",
        "data.mixture=null",
        "data.mixture_temperature=1.0",
    ]
