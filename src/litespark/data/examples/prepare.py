"""Writes a prepared folder of examples: `train/` and `validation/` tables, the tokenizer, and the manifest.

The folder's name ends in a hash of all that decides its content: the files by what is in them, the settings, the
tokenizer and the chat template. It is written beside its place and moved there when it is whole.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from litespark.atomic import content_hash, flush_tree, put
from litespark.data import manifest as manifests
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.encode import ExampleEncoder
from litespark.data.examples.records import require_records
from litespark.data.examples.write import write_folder
from litespark.data.prepare.prepare import already_prepared, locked, mendable_faults_of_disk
from litespark.data.storage import Storage, is_remote
from litespark.data.text.files import SourceFile
from litespark.data.text.sources import Corpus, list_source
from litespark.data.tokenizer import Tokenizer

FORMAT = 3
"""Raised when the same records are written differently."""


@dataclass(frozen=True)
class ExamplesLookup:
    """What a config names: a folder that is prepared, or the plan of one."""

    config: ExamplesConfig
    place: Path
    plan: "ExamplesPlan | None" = None


@dataclass(frozen=True)
class ExamplesPlan:
    """A config with what it names."""

    config: ExamplesConfig
    corpus: Corpus
    encoder: ExampleEncoder

    @property
    def tokenizer(self) -> Tokenizer:
        return self.encoder.tokenizer

    @cached_property
    def name(self) -> str:
        unread = {"max_bad_share": None, "tokenizer": None, "chat_template": None}
        identity = {
            "format": FORMAT,
            "settings": {**self.config.preparation(), **unread, "seq_len": self.config.seq_len},
            "tokenizer": [self.tokenizer.hash, self.tokenizer.eos_id, self.tokenizer.begin_ids],
            "chat_template": self.tokenizer.chat_template,
            "wraps_text": self.encoder.wraps_text,
            "files": [[(file.name, _content(file)) for file in side] for side in self.corpus.sides],
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.config.name or f'{self.corpus.name}-{self.config.format}'}-{digest}"


def look_up(config: ExamplesConfig) -> ExamplesLookup:
    """Find the prepared folder of a config, or else plan it; writes nothing.

    ValueError: an unusable source, tokenizer or template, or an address to write to.
    """
    if (prepared := already_prepared(config)) is not None:
        return ExamplesLookup(config, Path(prepared))
    if is_remote(config.root):
        raise ValueError(f"data.root={config.root}: examples are prepared on this machine; set it to a folder here")
    if config.tokenizer is None:
        raise ValueError(
            "data.tokenizer: got null, expected that of the model to be trained on; start from its weights with "
            "model=huggingface model.path=FOLDER, whose tokenizer is taken, or name one"
        )
    corpus = list_source(config).corpus()
    require_records(corpus.training + corpus.validation, config)
    tokenizer = Tokenizer.load(config.tokenizer, eos_token=config.eos_token)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"data.tokenizer={config.tokenizer} has {tokenizer.vocab_size} ids, and the vocabulary is "
            f"{config.vocab_size}. Name the tokenizer of the model, as model=huggingface model.path=FOLDER does"
        )
    plan = ExamplesPlan(config, corpus, ExampleEncoder(config, tokenizer))
    return ExamplesLookup(config, Storage(config.root).local / plan.name, plan)


def prepare(config: ExamplesConfig, *, existing: ExamplesLookup | None = None) -> Path:
    """The prepared folder of a config; written first where it is not there.

    ValueError: as `look_up`, too many bad records, or a split without an example.
    """
    known = existing if existing is not None and existing.config == config else look_up(config)
    if known.plan is None or (known.place / manifests.FILE).is_file():
        return known.place
    root, partial = known.place.parent, known.place.with_name(f".{known.place.name}.partial")
    with locked(Storage(root), known.place.name), mendable_faults_of_disk(str(known.place)):
        if not (known.place / manifests.FILE).is_file():
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(known.place, ignore_errors=True)
            try:
                write_folder(known.plan.name, config, known.plan.corpus, known.plan.encoder, partial)
                flush_tree(partial)
                put(partial, known.place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return known.place


def _content(file: SourceFile) -> Any:
    """What a file holds, by its hash where it is on this machine, else as the service tells it."""
    return [file.size, file.version] if file.remote else content_hash(file.path)
