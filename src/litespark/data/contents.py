"""What a prepared data set holds and what was left out of it, from its folder or from what a run kept as `data.json`.

A run keeps all but the chunks and the bytes of each token id, so that its report does not depend on where the data
lies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter

from litespark.atomic import write_whole
from litespark.data.dropped import DroppedRow
from litespark.data.manifest import FILE, Count, Manifest, checked
from litespark.run.folder import DATA


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
        return [
            PreparedDomain(split, name, held.documents, held.tokens, held.bytes, held.text_bytes, held.lengths)
            for split, counts in sorted(self.splits.items())
            for name, held in sorted(counts.domains.items())
        ]

    @property
    def left_out(self) -> list[DroppedRow]:
        """By split, then by domain and rule."""
        return self.dropped.rows

    @property
    def split_names(self) -> list[str]:
        return sorted({row.split for row in self.domains} | {row.split for row in self.left_out})

    def domains_of(self, split: str) -> list[PreparedDomain]:
        return [row for row in self.domains if row.split == split]

    def left_out_of(self, split: str) -> list[DroppedRow]:
        return [row for row in self.left_out if row.split == split]

    def by_rule(self, split: str) -> list[DroppedRow]:
        """What was left out of one split by rule, whatever the reason, and domain; without examples."""
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

        A ValueError names what is missing, or the field that is wrong.
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
        contents: PreparedData = checked(_PREPARED, file.read_bytes(), str(file), "restore the file that the run wrote")
        return contents

    @classmethod
    def of(cls, manifest: Manifest) -> PreparedData:
        return _PREPARED.validate_json(json.dumps(manifest.summary()))


def summed(rows: Sequence[DroppedRow], rule: str, domain: str) -> DroppedRow:
    """The sum of rows of one split under one name; tokens are None where one of them was not counted."""
    counted = [row.tokens for row in rows if row.tokens is not None]
    documents, size = sum(row.documents for row in rows), sum(row.bytes for row in rows)
    return DroppedRow(rows[0].split, domain, rule, documents, size, sum(counted) if len(counted) == len(rows) else None)


def write_run_data(folder: Path, manifest: Manifest) -> None:
    write_whole(folder / DATA, json.dumps(manifest.summary(), indent=1, allow_nan=False) + "\n")


_PREPARED = TypeAdapter(PreparedData)
