"""What a prepared data set holds and what was left out of it, for a reader: of its folder, or of what a run kept.

A run keeps all of the manifest but the list of chunks and the bytes of each token id, as `data.json` in its own folder,
so that its report does not depend on where the data lies or whether it still does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from litespark.atomic import write_whole
from litespark.data.dropped import DroppedRow
from litespark.data.manifest import FILE, Count, Manifest, checked
from litespark.run.folder import DATA

# those that are known by name come first, in this order
_FIRST_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class PreparedDomain:
    """One domain of one split, counted as in `DomainCounts`."""

    split: str
    domain: str
    documents: int
    tokens: int
    bytes: int
    text_bytes: int
    lengths: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PreparedData(Manifest):
    """A manifest without chunks and bytes of ids, and the hash that it had with them."""

    token_bytes: list[Count] = field(default_factory=list)
    manifest_hash: str

    @cached_property
    def domains(self) -> list[PreparedDomain]:
        """By split, then by name."""
        found = [
            PreparedDomain(split, name, held.documents, held.tokens, held.bytes, held.text_bytes, held.lengths)
            for split, counts in self.splits.items()
            for name, held in counts.domains.items()
        ]
        return sorted(found, key=lambda row: (*_place_of(row.split), row.domain))

    @cached_property
    def left_out(self) -> list[DroppedRow]:
        """By split, then by domain and rule."""
        return sorted(self.dropped.rows, key=lambda row: (*_place_of(row.split), row.domain, row.rule))

    @property
    def split_names(self) -> list[str]:
        """The splits that hold something or lost something; train and validation first."""
        return sorted({row.split for row in self.domains} | {row.split for row in self.left_out}, key=_place_of)

    def domains_of(self, split: str) -> list[PreparedDomain]:
        """The domains of one split, by name."""
        return [row for row in self.domains if row.split == split]

    def left_out_of(self, split: str) -> list[DroppedRow]:
        """What was left out of one split, by domain and rule."""
        return [row for row in self.left_out if row.split == split]

    def by_rule(self, split: str) -> list[DroppedRow]:
        """What was left out of one split by domain and rule, whatever the reason; without examples."""
        groups: dict[tuple[str, str], list[DroppedRow]] = {}
        for row in self.left_out_of(split):
            groups.setdefault((row.group, row.domain), []).append(row)
        return [summed(rows, group, domain) for (group, domain), rows in sorted(groups.items())]

    def read_documents(self, split: str, domain: str | None = None) -> int:
        """Documents and lines that were read for a split (of one domain, or of all): kept and left out together."""
        rows: list[PreparedDomain | DroppedRow] = [*self.domains_of(split), *self.left_out_of(split)]
        return sum(row.documents for row in rows if domain in (None, row.domain))

    @classmethod
    def read(cls, folder: Path | str) -> PreparedData:
        """That of a prepared folder or of the folder of a run, or of one of their two files.

        Raises:
            ValueError: neither file is there, or it is not of this schema; the message names the file and the field.
            OSError: it cannot be read.
        """
        path = Path(folder)
        file = next((path / name for name in (DATA, FILE) if (path / name).is_file()), path)
        if not file.is_file():
            raise ValueError(
                f"{path}: found no {FILE} of a prepared folder and no {DATA} of a run; name a folder that "
                "`litespark prepare` or a training run wrote"
            )
        if file.name == FILE:
            return cls.of(Manifest.read(file.parent))
        found: PreparedData = checked(_PREPARED, file.read_bytes(), str(file), "restore the file that the run wrote")
        return found

    @classmethod
    def of(cls, manifest: Manifest) -> PreparedData:
        """That of a manifest."""
        return cls.from_values(manifest.summary())

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> PreparedData:
        """That of `Manifest.summary`."""
        return _PREPARED.validate_json(json.dumps(values))


def summed(rows: Sequence[DroppedRow], rule: str, domain: str) -> DroppedRow:
    """The sum of rows of one split under one name; tokens are None where one of them was not counted."""
    counted = [row.tokens for row in rows if row.tokens is not None]
    documents, size = sum(row.documents for row in rows), sum(row.bytes for row in rows)
    return DroppedRow(rows[0].split, domain, rule, documents, size, sum(counted) if len(counted) == len(rows) else None)


def write_run_data(folder: Path, manifest: Manifest) -> None:
    """Write `data.json` into the folder of a run, whole or not at all."""
    write_whole(folder / DATA, json.dumps(manifest.summary(), indent=1, allow_nan=False) + "\n")


def _place_of(split: str) -> tuple[int, str]:
    return (_FIRST_SPLITS.index(split) if split in _FIRST_SPLITS else len(_FIRST_SPLITS), split)


_PREPARED = TypeAdapter(PreparedData)
