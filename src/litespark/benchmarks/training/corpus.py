"""The text that is trained on: clean documents of what `data.source` names, with junk and copies planted among them.

Written as JSON lines with the kind of every document as its domain, so that the manifest of the prepared data says how
much of each kind went.
"""

import hashlib
import inspect
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from litespark.atomic import written_whole
from litespark.benchmarks.training.planted import CLEAN, Text, plant
from litespark.config.settings import settings
from litespark.data.config import PrepareConfig
from litespark.data.text.files import Files
from litespark.data.text.reader import DocumentReader
from litespark.data.text.sources import corpus
from litespark.metrics.records.training import Corpus, Kind
from litespark.ranges import Count, Range, Seed

TEXT_FIELD = "text"
KIND_FIELD = "kind"
_FEWEST_BYTES = 500
_FILE_DOCUMENTS = 2000
# of the clean bytes, where the source does not say what is held out
_HELD_OUT = 0.1
# to parse the sources would take a hundred times as long, and what is no docstring is hardly ever a sentence
_DOCSTRING = re.compile(r'"""(.+?)"""', re.DOTALL)
_EMPTY_LINE = re.compile(r"\n\s*\n")
_FEWEST_WORDS = 12
_SENTENCES = re.compile(r"[A-Z].*[.!?]", re.DOTALL)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*[.,;:!?]?")
# of the words; code, tables and formulas hold fewer
_LEAST_SHARE_OF_WORDS = 0.8
# beside the words: names in quotes and references have more of it than sentences
_MOST_MARKS = 0.2


@settings("--", kw_only=True)
class CorpusSettings:
    """How much text, and how much among it is worthless.

    Attributes:
        clean_bytes: of clean text for training; a tenth more is held out, and stays clean.
        planted: bytes of junk and copies for each clean one; planted_seed: of them.
    """

    clean_bytes: Count = 2_000_000
    planted: Annotated[float, Range(at_least=0, at_most=1000)] = 1.0
    planted_seed: Seed = 1


def build_corpus(config: PrepareConfig, settings: CorpusSettings, *, below: Path) -> tuple[Path, Corpus]:
    """Write the corpus below a folder, or find it where it was written before.

    Clean are the documents of `config.source`, or the prose of the docstrings of Python files. Packages or splits that
    the source holds out validate, else a share by hash.
    """
    training, validation = _clean(config, settings.clean_bytes)
    if not training or not validation:
        raise ValueError(
            f"data.source={config.source}: got {len(training)} clean documents for training and {len(validation)} for "
            f"validation of {_FEWEST_BYTES} bytes or more, expected some of both; give a larger source"
        )
    splits = {
        "train": plant(training, settings.planted, settings.planted_seed),
        "validation": [Text(CLEAN, text) for text in validation],
    }
    lines = {
        split: [json.dumps({TEXT_FIELD: text, KIND_FIELD: kind}, ensure_ascii=False) for kind, text in texts]
        for split, texts in splits.items()
    }
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    folder = below / f"corpus-{digest[:12]}"
    _write(folder, lines)
    sizes: dict[str, list[int]] = {}
    for planted in splits["train"]:
        sizes.setdefault(planted.kind, []).append(len(planted.text.encode()))
    return folder, Corpus(
        source=config.source,
        seed=settings.planted_seed,
        sha256=digest,
        kinds=[Kind(kind=kind, documents=len(counts), bytes=sum(counts)) for kind, counts in sorted(sizes.items())],
        validation_documents=len(validation),
        validation_bytes=sum(len(text.encode()) for text in validation),
    )


def _clean(config: PrepareConfig, clean_bytes: int) -> tuple[list[str], list[str]]:
    """Documents to train on and to validate on, each text once, in an order that only hashes decide."""
    documents = corpus(config)
    if documents.validation:
        held_out = _until(_documents(config, documents.validation), clean_bytes * _HELD_OUT, set())
        # what is held out is in no training document
        return _until(_documents(config, documents.training), clean_bytes, set(held_out)), held_out
    texts = _until(_documents(config, documents.training), clean_bytes * (1 + _HELD_OUT), set())
    texts.sort(key=lambda text: hashlib.sha256(text.encode()).digest())
    held_out = _until(texts, sum(map(len, texts)) * _HELD_OUT / (1 + _HELD_OUT), set())
    return texts[len(held_out) :], held_out


def _until(texts: Iterable[str], most_bytes: float, known: set[str]) -> list[str]:
    taken: list[str] = []
    seen, size = set(known), 0
    for text in texts:
        if size >= most_bytes:
            break
        if text not in seen and len(text.encode()) >= _FEWEST_BYTES:
            seen.add(text)
            taken.append(text)
            size += len(text.encode())
    return taken


def _documents(config: PrepareConfig, files: Files) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        reader = DocumentReader(config, scratch=Path(scratch))
        ordered = sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())
        for document in reader.documents(ordered):
            yield prose(document.text) if document.file.endswith(".py") else document.text


def _write(folder: Path, lines: dict[str, list[str]]) -> None:
    if folder.is_dir():
        return
    with written_whole(folder) as partial:
        for split, texts in lines.items():
            (partial / split).mkdir(parents=True)
            for number, start in enumerate(range(0, len(texts), _FILE_DOCUMENTS)):
                part = texts[start : start + _FILE_DOCUMENTS]
                path = partial / split / f"part-{number:04d}.jsonl"
                path.write_text("\n".join(part) + "\n", encoding="utf-8", newline="\n")


def prose(source: str) -> str:
    """The paragraphs of a module's docstrings that are sentences, each once and on one line.

    Not parameters, tables, formulas and examples: what is left is text as web pages have it.
    """
    paragraphs = (paragraph for text in _DOCSTRING.findall(source) for paragraph in _paragraphs(text))
    return "\n".join(dict.fromkeys(paragraphs))


def _paragraphs(docstring: str) -> Iterator[str]:
    for paragraph in _EMPTY_LINE.split(inspect.cleandoc(docstring)):
        if any(line.startswith((" ", "\t")) for line in paragraph.splitlines()):  # of a section, or an example
            continue
        words = paragraph.split()
        joined = " ".join(words)
        if len(words) < _FEWEST_WORDS or not _SENTENCES.fullmatch(joined):
            continue
        plain = sum(_WORD.fullmatch(word) is not None for word in words)
        marks = sum(not (letter.isalnum() or letter.isspace()) for letter in joined)
        if plain >= _LEAST_SHARE_OF_WORDS * len(words) and marks <= _MOST_MARKS * len(words):
            yield joined
