"""What a prepared data set holds and what was left out of it: a view of `manifest.json` and of a run's `data.json`.

`litespark prepare` writes the manifest beside the chunks. A run keeps what a reader needs of it, which is all but the
list of chunks and the bytes of each token id, as sealed `data.json` in its own folder, so that its report does not
depend on where the data lies or whether it still does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litespark.metrics.records.sealing import SCHEMA_KEY, check_seal, naming, read_values, write_values
from litespark.metrics.records.strict_json import RecordError, decode, wrong

SCHEMA = "litespark.data/2"
MANIFEST = "manifest.json"
RUN_DATA = "data.json"
# what decides which rows are read
_IDENTITY = ("vocab_size", "eos_id", "bos_id", "tokenizer_hash", "token_bytes", "splits", "packing", "seq_len")
# those that are known by name come first, in this order
_FIRST_SPLITS = ("train", "validation")


@dataclass
class PreparedDomain:
    """What one domain of one split holds.

    Attributes:
        tokens: EOS included.
        bytes, text_bytes: that the tokens decode to, and of the texts in UTF-8; they differ where the tokenizer adds
            or loses something.
        lengths: entry k counts the documents of 2^k to 2^(k+1)-1 tokens; empty where they were not counted.
    """

    split: str
    domain: str
    documents: int
    tokens: int
    bytes: int
    text_bytes: int
    lengths: list[int] = field(default_factory=list)


@dataclass
class LeftOutExample:
    """One document or line that was left out: source file, line or record from 1, and how it begins."""

    file: str
    place: int
    excerpt: str


@dataclass
class LeftOut:
    """What one rule left out of one domain of one split, with the first examples; `tokens` None: not counted.

    A rule is `reading/REASON`, `selection/RULE`, or `selection/RULE/REASON` where a rule gives one.
    """

    split: str
    domain: str
    rule: str
    documents: int
    bytes: int
    tokens: int | None
    examples: list[LeftOutExample] = field(default_factory=list)

    @property
    def group(self) -> str:
        """The rule without its reason."""
        return "/".join(self.rule.split("/")[:2])


@dataclass
class PassedOver:
    """Files of the source that were not read, for one reason."""

    reason: str
    files: int
    names: list[str] = field(default_factory=list)
    """The first of them."""


@dataclass
class _About:
    name: str
    vocab_size: int
    packing: str
    seq_len: int | None
    unigram_entropy: float
    code_version: str


@dataclass(frozen=True)
class PreparedData:
    """A prepared data set as its manifest tells it.

    Attributes:
        seq_len: that `best_fit` rows were laid out for, else None.
        settings: everything that decided the content.
        domains, left_out: by split, then by name.
        passed_over: files of the source that were not read.
    """

    name: str
    manifest_hash: str
    vocab_size: int
    packing: str
    seq_len: int | None
    unigram_entropy: float
    code_version: str
    settings: dict[str, Any]
    domains: list[PreparedDomain]
    left_out: list[LeftOut]
    passed_over: list[PassedOver] = field(default_factory=list)

    @property
    def splits(self) -> list[str]:
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
            RecordError: neither file is there, or it is not of this schema, contradicts itself or (of a run) was
                changed after it was written; the message names the file and the field.
            OSError: it cannot be read.
        """
        path = Path(path)
        file = next((path / name for name in (RUN_DATA, MANIFEST) if (path / name).is_file()), path)
        if not file.is_file():
            raise RecordError(
                f"{path}: found no {MANIFEST} of a prepared folder and no {RUN_DATA} of a run; name a folder that "
                "`litespark prepare` or a training run wrote"
            )
        with naming(file, SCHEMA):
            values = read_values(file)
            if file.name == RUN_DATA:
                check_seal(values)
            return cls.from_values(values)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> PreparedData:
        """That of a manifest's plain values, whole or as a run keeps them.

        Raises:
            RecordError: another schema, a missing field, a value of the wrong type or one that contradicts another;
                the message names the field.
        """
        if values.get(SCHEMA_KEY) != SCHEMA:
            raise RecordError(f"schema: got {values.get(SCHEMA_KEY)!r}, expected {SCHEMA!r}; prepare the data again")
        about: _About = decode(_chosen(values, _About), _About, "")
        ledger = values.get("ledger")
        if not isinstance(ledger, list):
            raise wrong("ledger", ledger, "a list")
        listing = _object(values.get("listing", {}), "listing")
        domains = list(_domains(values))
        left_out: list[LeftOut] = decode(ledger, list[LeftOut], "ledger")
        _check(domains, left_out)
        return cls(
            **vars(about),
            manifest_hash=str(values.get("manifest_hash") or _hash(values)),
            settings=_object(values.get("settings"), "settings"),
            domains=sorted(domains, key=lambda row: (*_place_of(row.split), row.domain)),
            left_out=sorted(left_out, key=lambda row: (*_place_of(row.split), row.domain, row.rule)),
            passed_over=decode(listing.get("passed_over", []), list[PassedOver], "listing.passed_over"),
        )


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
    """Write `data.json` into the folder of a run, sealed, whole or not at all.

    Args:
        folder: of the run.
        summary: what `Manifest.summary` gives.

    Raises:
        OSError: it cannot be written.
    """
    write_values(summary, folder / RUN_DATA)


def _domains(values: dict[str, Any]) -> Iterator[PreparedDomain]:
    for split, counts in _object(values.get("splits"), "splits").items():
        where = f"splits.{split}.domains"
        for name, held in _object(_object(counts, f"splits.{split}").get("domains"), where).items():
            chosen = _chosen(_object(held, f"{where}.{name}"), PreparedDomain)
            yield decode({**chosen, "split": split, "domain": name}, PreparedDomain, f"{where}.{name}")


def _check(domains: list[PreparedDomain], left_out: list[LeftOut]) -> None:
    """The rules that types do not express."""
    for row in domains:
        where = f"splits.{row.split}.domains.{row.domain}"
        if min(row.documents, row.tokens, row.bytes, row.text_bytes, *row.lengths) < 0:
            raise RecordError(f"{where}: got a count below 0")
        if row.lengths and sum(row.lengths) != row.documents:
            raise RecordError(f"{where}.lengths: got {sum(row.lengths)} documents, expected its {row.documents}")
    for position, entry in enumerate(left_out):
        if min(entry.documents, entry.bytes, entry.tokens or 0) < 0 or len(entry.examples) > entry.documents:
            raise RecordError(
                f"ledger[{position}]: got {entry.documents} documents of {entry.bytes} bytes and {entry.tokens} tokens "
                f"with {len(entry.examples)} examples; expected none below 0 and at most one example a document"
            )


def _hash(values: dict[str, Any]) -> str:
    """As the manifest computes its own; a test holds the two together."""
    content = {key: values.get(key) for key in _IDENTITY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _chosen(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """The values that are fields of `kind`: a manifest states more than is shown."""
    return {name: values[name] for name in kind.__annotations__ if name in values}


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, value, "an object")
    return value


def _place_of(split: str) -> tuple[int, str]:
    return (_FIRST_SPLITS.index(split) if split in _FIRST_SPLITS else len(_FIRST_SPLITS), split)
