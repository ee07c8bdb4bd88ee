"""What did not become training text, and why: counts by split, domain and rule, with the first examples of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function, plain_serializer_function_ser_schema

EXAMPLES = 5
EXCERPT_CHARACTERS = 200


@dataclass(frozen=True)
class Example:
    """One document or line that was left out."""

    file: str
    """Name of the source file, as the source lists it."""
    place: int
    """Line of the file, or number of the record in it, from 1."""
    excerpt: str = ""
    """How it begins; what cannot be decoded is replaced."""


@dataclass
class DroppedRow:
    """What one rule left out of one domain of one split."""

    split: str
    domain: str
    rule: str
    """`reading/REASON` for what is no document, `selection/RULE` for what a rule refused."""
    documents: int = 0
    bytes: int = 0
    """Of the text; of the whole line where there is no text."""
    tokens: int | None = 0
    """None where they were not counted: for lines, and with `data.selection.count_dropped_tokens=false`."""
    examples: list[Example] = field(default_factory=list)
    """The first, in the order of the corpus."""

    @property
    def group(self) -> str:
        """The rule without its reason: `selection/RULE` of `selection/RULE/REASON`."""
        return "/".join(self.rule.split("/")[:2])


class DroppedDocuments:
    """Rows by (split, domain, rule)."""

    def __init__(self, rows: Iterable[DroppedRow] = ()) -> None:
        self._rows: dict[tuple[str, str, str], DroppedRow] = {}
        for row in rows:
            self._add(row)

    def add(
        self, split: str, domain: str, rule: str, *, size: int, tokens: int | None, file: str, place: int, text: str
    ) -> None:
        """Enter one document or line of `size` bytes; `text` is what its excerpt is taken from."""
        example = Example(file, place, text[:EXCERPT_CHARACTERS])
        self._add(DroppedRow(split, domain, rule, 1, size, tokens, [example]))

    def merge(self, later: DroppedDocuments) -> None:
        """Add those of a part of the corpus that comes behind this one's."""
        for row in later.rows:
            self._add(row)

    @property
    def rows(self) -> list[DroppedRow]:
        """Sorted by split, domain and rule."""
        return [self._rows[key] for key in sorted(self._rows)]

    def documents(self, prefix: str = "") -> int:
        return sum(row.documents for row in self._rows.values() if row.rule.startswith(prefix))

    def by_rule(self) -> dict[str, int]:
        counts = Counter[str]()
        for row in self.rows:
            counts[row.rule] += row.documents
        return dict(sorted(counts.items()))

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In JSON it is the list of its rows."""
        as_rows = plain_serializer_function_ser_schema(lambda dropped: [asdict(row) for row in dropped.rows])
        return no_info_after_validator_function(cls, handler(list[DroppedRow]), serialization=as_rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DroppedDocuments) and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]  # it changes

    def _add(self, row: DroppedRow) -> None:
        mine = self._rows.setdefault((row.split, row.domain, row.rule), DroppedRow(row.split, row.domain, row.rule))
        mine.documents += row.documents
        mine.bytes += row.bytes
        mine.tokens = None if mine.tokens is None or row.tokens is None else mine.tokens + row.tokens
        mine.examples += row.examples[: EXAMPLES - len(mine.examples)]
