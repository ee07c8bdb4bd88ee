"""What a preparation will do: units of work, and the folder they fill.

What a unit writes is a pure function of the plan and its number, so units can be prepared by any process in any order,
and again after an interruption.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.select.evaluation_texts import evaluation_files, list_evaluations
from litespark.data.select.select import library_versions, selection_identity
from litespark.data.storage import Storage
from litespark.data.text.files import Files, SourceFile, fingerprint
from litespark.data.text.listing import Listing
from litespark.data.text.sources import ListedSource, list_source
from litespark.data.text.splits import TRAIN, VALIDATION
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import tokenizer_files

FORMAT = 4
"""Raised when the same settings and text are written differently."""


@dataclass(frozen=True)
class Unit:
    """Source files that are prepared as one."""

    number: int
    split: str | None
    """Of all its documents; None where a rule deals documents out to both splits."""
    files: Files

    @property
    def text_bytes(self) -> int:
        """About how many bytes of text it holds, at least 1."""
        return max(sum(file.text_bytes for file in self.files), 1)


@dataclass(frozen=True)
class Plan:
    """A config with what it names."""

    config: PrepareConfig
    training: Files
    """To train on, or to divide where there is no `validation`."""
    validation: Files
    tokenizer: Tokenizer | None
    """The one that the settings name; None: one is trained."""
    name: str
    """Of the prepared folder; ends in a hash of everything that decides its content, by the listing."""
    source_key: str
    """A hash of the settings, and of names and sizes of the files: all but when they were written."""
    listing: Listing

    @property
    def files(self) -> Files:
        """All files, in the order of the units."""
        return self.training + self.validation

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.config.root).below(self.name)

    @property
    def place(self) -> Path | str:
        """Its path, or its address where it is remote."""
        return self.storage.address if self.storage.remote else self.storage.local

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All units, in the order of the corpus: training first."""
        sides = [(TRAIN, self.training), (VALIDATION, self.validation)] if self.validation else [(None, self.training)]
        groups = [(split, group) for split, files in sides for group in _grouped(files, self.config.unit_bytes)]
        return tuple(Unit(number, split, files) for number, (split, files) in enumerate(groups))

    @property
    def own_units(self) -> list[int]:
        return [unit.number for unit in self.units if self.node_of(unit.number) == self.config.node_rank]

    def node_of(self, unit: int) -> int:
        return unit % self.config.nodes


def start_key(config: PrepareConfig, source: ListedSource) -> str | None:
    """A hash of all that decides what is prepared, by the listings; None where a file or library is missing."""
    try:
        tokenizer = [] if config.tokenizer is None else tokenizer_files(config.tokenizer)
        files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in tokenizer]
        evaluations = [
            (folder, [(file.name, file.size, file.version) for file in listed])
            for folder, listed in list_evaluations(config.selection.decontaminate)
        ]
        versions = library_versions(config.selection)
    except (ValueError, OSError, PackageNotFoundError):
        return None
    settings = {**config.preparation(), "name": config.name}
    return _digest([FORMAT, settings, files, evaluations, versions, source.fingerprint])


def plan_preparation(config: PrepareConfig, source: ListedSource | None = None) -> Plan:
    """The plan of a config; looks into the files of the source, which is listed here unless it is given."""
    corpus = (source or list_source(config)).corpus()
    tokenizer = None
    if config.tokenizer is not None:
        asked = None if config.add_bos == "auto" else bool(config.add_bos)
        tokenizer = Tokenizer.load(config.tokenizer, eos_token=config.eos_token, add_bos=asked)
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"data.tokenizer={config.tokenizer} has {tokenizer.vocab_size} ids, and the vocabulary is "
                f"{config.vocab_size}. Set model.vocab_size={tokenizer.vocab_size} (data.vocab_size follows it), or "
                "name another tokenizer, as with model=huggingface, whose vocabulary is that of model.path."
            )
        # what is prepared is that of the tokenizer, in a model of any number of rows
        config = replace(config, vocab_size=tokenizer.vocab_size, add_bos=bool(tokenizer.begin_ids))
    elif config.add_bos is True:
        raise ValueError(
            "data.add_bos=true, but the tokenizer that is trained here has no BOS. Set data.add_bos=auto, or "
            "data.tokenizer to one that has"
        )
    # how many bad documents are allowed decides whether there is a data set, not what is in it: raising the limit
    # continues with what was prepared below it
    settings = {name: value for name, value in config.preparation().items() if name not in ("max_bad_share", "add_bos")}
    if tokenizer is not None and tokenizer.begin_ids:
        settings["begin_ids"] = tokenizer.begin_ids
    # of files that are named, their content counts and not where they lie
    settings["selection"] = {**settings["selection"], "decontaminate": ()}
    identity = {
        "format": FORMAT,
        "settings": settings | {"tokenizer": tokenizer.hash if tokenizer else None},
        "selection": selection_identity(config.selection),
        "files": [*map(fingerprint, corpus.sides)],
    }
    # of one file alone only the kind counts: that is all its content depends on
    alone = len(corpus.training) == 1 and not corpus.validation
    names = [[(Path(file.name).suffixes if alone else file.name, file.size) for file in side] for side in corpus.sides]
    return Plan(
        config,
        corpus.training,
        corpus.validation,
        tokenizer,
        name=f"{config.name or corpus.name}-{_digest(identity)}",
        source_key=_digest({**identity, "files": names}),
        listing=replace(corpus.listing, evaluations_passed_over=evaluation_files(config.selection.decontaminate)[1]),
    )


def _digest(identity: object) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _grouped(files: Files, most_bytes: int) -> Iterator[Files]:
    """Runs of files of about so many bytes of text; a larger file is alone."""
    group: list[SourceFile] = []
    held = 0
    for file in files:
        if group and held + file.text_bytes > most_bytes:
            yield tuple(group)
            group, held = [], 0
        group.append(file)
        held += file.text_bytes
    if group:
        yield tuple(group)
