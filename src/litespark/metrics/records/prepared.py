"""What a prepared data set holds and what was left out of it: a view of `manifest.json` and of a run's `data.json`.

`litespark prepare` writes the manifest beside the chunks. A run keeps what a reader needs of it, which is all but the
list of chunks and the bytes of each token id, as `data.json` in its own folder, so that its report does not depend on
where the data lies or whether it still does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from litespark.atomic import write_whole
from litespark.metrics.records.base import Count, CountFromZero, RecordError, parse, read_as, view

MANIFEST = "manifest.json"
RUN_DATA = "data.json"
# what decides which rows are read
_IDENTITY = ("vocab_size", "eos_id", "bos_id", "tokenizer_hash", "token_bytes", "splits", "packing", "seq_len")
# those that are known by name come first, in this order
_FIRST_SPLITS = ("train", "validation")


@view
class DomainCounts:
    """What one domain holds.

    Attributes:
        tokens: EOS included.
        bytes, text_bytes: that the tokens decode to, and of the texts in UTF-8; they differ where the tokenizer adds
            or loses something.
        lengths: entry k counts the documents of 2^k to 2^(k+1)-1 tokens; empty where they were not counted.
    """

    documents: CountFromZero
    tokens: CountFromZero
    bytes: CountFromZero
    text_bytes: CountFromZero
    lengths: list[CountFromZero] = field(default_factory=list)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.lengths and sum(self.lengths) != self.documents:
            raise ValueError(f"lengths: got {sum(self.lengths)} documents, expected its {self.documents}")
        return self


@dataclass(frozen=True)
class PreparedDomain:
    """One domain of one split; see `DomainCounts`."""

    split: str
    domain: str
    documents: int
    tokens: int
    bytes: int
    text_bytes: int
    lengths: list[int] = field(default_factory=list)


@view
class SplitCounts:
    """The domains of one split, by name."""

    domains: dict[str, DomainCounts]


@view
class LeftOutExample:
    """One document or line that was left out: source file, line or record from 1, and how it begins."""

    file: str
    place: int
    excerpt: str


@view
class LeftOut:
    """What one rule left out of one domain of one split, with the first examples; `tokens` None: not counted.

    A rule is `reading/REASON`, `selection/RULE`, or `selection/RULE/REASON` where a rule gives one.
    """

    split: str
    domain: str
    rule: str
    documents: CountFromZero
    bytes: CountFromZero
    tokens: CountFromZero | None
    examples: list[LeftOutExample] = field(default_factory=list)

    @property
    def group(self) -> str:
        """The rule without its reason."""
        return "/".join(self.rule.split("/")[:2])

    @model_validator(mode="after")
    def _has_documents_for_its_examples(self) -> Self:
        if len(self.examples) > self.documents:
            raise ValueError(f"examples: got {len(self.examples)}, expected at most its {self.documents} documents")
        return self


@view
class PassedOver:
    """Files of the source that were not read, for one reason, and the names of the first."""

    reason: str
    files: int
    names: list[str] = field(default_factory=list)


@view
class Listing:
    """What the source was found to hold."""

    passed_over: list[PassedOver] = field(default_factory=list)


@view
class PreparedData:
    """A prepared data set as its manifest tells it.

    Attributes:
        ledger: what was left out.
        settings: everything that decided the content.
        seq_len: that `best_fit` rows were laid out for, else None.
    """

    schema: Literal["litespark.data/2"]
    name: str
    vocab_size: Count
    packing: str
    seq_len: int | None
    unigram_entropy: float
    code_version: str
    settings: dict[str, Any]
    splits: dict[str, SplitCounts]
    ledger: list[LeftOut]
    listing: Listing = field(default_factory=Listing)
    manifest_hash: str = ""

    @cached_property
    def domains(self) -> list[PreparedDomain]:
        """By split, then by name."""
        found = [
            PreparedDomain(split, name, **vars(counts))
            for split, held in self.splits.items()
            for name, counts in held.domains.items()
        ]
        return sorted(found, key=lambda row: (*_place_of(row.split), row.domain))

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """By split, then by domain and rule."""
        return sorted(self.ledger, key=lambda row: (*_place_of(row.split), row.domain, row.rule))

    @property
    def passed_over(self) -> list[PassedOver]:
        """Files of the source that were not read."""
        return self.listing.passed_over

    @property
    def split_names(self) -> list[str]:
        """The splits that hold something or lost something; train and validation first."""
        return sorted({row.split for row in self.domains} | {row.split for row in self.left_out}, key=_place_of)

    def domains_of(self, split: str) -> list[PreparedDomain]:
        """The domains of one split, by name."""
        return [row for row in self.domains if row.split == split]

    def left_out_of(self, split: str) -> list[LeftOut]:
        """What was left out of one split, by domain and rule."""
        return [row for row in self.left_out if row.split == split]

    def by_rule(self, split: str) -> list[LeftOut]:
        """What was left out of one split by domain and rule, whatever the reason; without examples."""
        groups: dict[tuple[str, str], list[LeftOut]] = {}
        for row in self.left_out_of(split):
            groups.setdefault((row.group, row.domain), []).append(row)
        return [summed(rows, group, domain) for (group, domain), rows in sorted(groups.items())]

    def read_documents(self, split: str, domain: str | None = None) -> int:
        """Documents and lines that were read for a split (of one domain, or of all): kept and left out together."""
        rows: list[PreparedDomain | LeftOut] = [*self.domains_of(split), *self.left_out_of(split)]
        return sum(row.documents for row in rows if domain in (None, row.domain))

    @classmethod
    def read(cls, path: Path | str) -> PreparedData:
        """That of a prepared folder or of the folder of a run, or of one of their two files.

        Raises:
            RecordError: neither file is there, or it is not of this schema or contradicts itself; the message names
                the file and the field.
            OSError: it cannot be read.
        """
        path = Path(path)
        file = next((path / name for name in (RUN_DATA, MANIFEST) if (path / name).is_file()), path)
        if not file.is_file():
            raise RecordError(
                f"{path}: found no {MANIFEST} of a prepared folder and no {RUN_DATA} of a run; name a folder that "
                "`litespark prepare` or a training run wrote"
            )
        found: PreparedData = read_as(cls, file)
        if not found.manifest_hash:  # a run keeps it, the manifest itself does not
            found = replace(found, manifest_hash=_hash(json.loads(file.read_bytes())))
        return found

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> PreparedData:
        """That of `Manifest.summary`.

        Raises:
            RecordError: as `read`.
        """
        found: PreparedData = parse(cls, json.dumps(values))
        return found


def summed(rows: Sequence[LeftOut], rule: str, domain: str) -> LeftOut:
    """The sum of rows of one split under one name; tokens are None where one of them was not counted."""
    counted = [row.tokens for row in rows if row.tokens is not None]
    return LeftOut(
        rows[0].split,
        domain,
        rule,
        sum(row.documents for row in rows),
        sum(row.bytes for row in rows),
        sum(counted) if len(counted) == len(rows) else None,
    )


def write_run_data(folder: Path, summary: dict[str, Any]) -> None:
    """Write `data.json` into the folder of a run, whole or not at all; `summary` is what `Manifest.summary` gives."""
    write_whole(folder / RUN_DATA, json.dumps(summary, indent=1, allow_nan=False) + "\n")


def _hash(values: dict[str, Any]) -> str:
    """As the manifest computes its own; a test holds the two together."""
    content = {key: values.get(key) for key in _IDENTITY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _place_of(split: str) -> tuple[int, str]:
    return (_FIRST_SPLITS.index(split) if split in _FIRST_SPLITS else len(_FIRST_SPLITS), split)
