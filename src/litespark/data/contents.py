"""What a prepared data set holds and what was left out of it, from its folder or from what a run kept as `data.json`.

A run keeps all but the chunks and the bytes of each token id, so that its report does not depend on where the data
lies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from litespark.atomic import write_whole
from litespark.data.dropped import DroppedDocuments, DroppedRow
from litespark.data.manifest import FILE, Count, DomainCounts, Manifest, checked
from litespark.run.folder import DATA


@dataclass(frozen=True, kw_only=True)
class PreparedData(Manifest):
    """A manifest without chunks and bytes of ids, and the hash that it had with them."""

    token_bytes: list[Count] = field(default_factory=list)
    manifest_hash: str

    @property
    def left_out(self) -> list[DroppedRow]:
        """By split, then by domain and rule."""
        return self.dropped.rows

    @property
    def split_names(self) -> list[str]:
        return sorted({*self.splits, *(row.split for row in self.left_out)})

    def domains_of(self, split: str) -> dict[str, DomainCounts]:
        return self.splits[split].domains if split in self.splits else {}

    def left_out_of(self, split: str) -> list[DroppedRow]:
        return [row for row in self.left_out if row.split == split]

    def by_rule(self, split: str) -> list[DroppedRow]:
        """What was left out of one split by rule, whatever the reason, and domain."""
        by_domain = DroppedDocuments(replace(row, rule=row.group) for row in self.left_out_of(split)).rows
        return sorted(by_domain, key=lambda row: row.rule)

    def read_documents(self, split: str, domain: str | None = None) -> int:
        """Documents and lines that were read for a split (of one domain, or of all): kept and left out together."""
        kept = sum(held.documents for name, held in self.domains_of(split).items() if domain in (None, name))
        return kept + sum(row.documents for row in self.left_out_of(split) if domain in (None, row.domain))

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
    (whole,) = DroppedDocuments(replace(row, rule=rule, domain=domain) for row in rows).rows
    return whole


def write_run_data(folder: Path, manifest: Manifest) -> None:
    write_whole(folder / DATA, json.dumps(manifest.summary(), indent=1, allow_nan=False) + "\n")


_PREPARED = TypeAdapter(PreparedData)
