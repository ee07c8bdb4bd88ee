"""Documents from the files of a source; what is no document is counted under its reason.

Everything is decoded from bytes, a record at a time, so that one bad byte costs one document. Too large a share of bad
ones stops the reading. A file that cannot be read whole is an error: nothing is lost in silence.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.dropped import EXCERPT_CHARACTERS, DroppedDocuments
from litespark.data.storage import Listed, Storage
from litespark.data.text.archives import blocks
from litespark.data.text.detection import holds_json
from litespark.data.text.document import ONLY_DOMAIN, UNKNOWN_DOMAIN, Document, domain_name, encodable
from litespark.data.text.fields import field_value, holds_null, records_within
from litespark.data.text.files import CSV, JSON, PARQUET, TSV, SourceFile
from litespark.data.text.formats import Overlong, json_records
from litespark.data.text.splits import TRAIN
from litespark.data.text.tables import SEPARATORS, Row, csv_rows, parquet_rows

READING = "reading/"
"""The rules of this module begin so."""
NOT_BAD = frozenset({f"{READING}empty", f"{READING}duplicate_shard"})
"""What is left out without anything being wrong with it."""
_OF_OTHER_ENCODINGS = frozenset({f"{READING}invalid_utf8", f"{READING}nul_character"})
# a share says something about a corpus, not about its first hundred lines
_JUDGED_OVER = 100_000
_NAMED_PLACES = 3


class DocumentReader:
    """Reads the documents of files of one split.

    Args:
        text_field: field of a record that holds the text; `a.b` is field b of a, unless a field has that very name.
        domain_field: field that names the domain; None: every document is of `ONLY_DOMAIN`.
        max_line_bytes: a longer record is not held in memory, and counts as bad.
        max_bad_share: reading stops as soon as there are more bad documents than this share of a hundred thousand, or
            of all that were read where those are more. `require_few_bad` judges the whole.
        split: under which what is left out is counted.
        dropped: where that is entered; None: one of its own.
        scratch: folder on this machine, of this reader alone, for files that have to be fetched.

    Attributes:
        dropped: what was left out.
        seen: documents met, those left out included.
        bad: those that were left out because something is wrong with them.
    """

    def __init__(
        self,
        *,
        text_field: str = "text",
        domain_field: str | None = None,
        max_line_bytes: int = 50_000_000,
        max_bad_share: float = 0.01,
        split: str = TRAIN,
        dropped: DroppedDocuments | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.text_field = text_field
        self.domain_field = domain_field
        self.max_line_bytes = max_line_bytes
        self.max_bad_share = max_bad_share
        self.split = split
        self.dropped = DroppedDocuments() if dropped is None else dropped
        self.scratch = scratch
        self.seen = 0
        self.bad = 0
        self._no_domain = UNKNOWN_DOMAIN if domain_field else ONLY_DOMAIN

    @classmethod
    def of(
        cls,
        config: PrepareConfig,
        *,
        split: str = TRAIN,
        dropped: DroppedDocuments | None = None,
        scratch: Path | None = None,
    ) -> DocumentReader:
        """A reader with the settings of a config."""
        return cls(
            text_field=config.text_field,
            domain_field=config.domain_field,
            max_line_bytes=config.max_line_bytes,
            max_bad_share=config.max_bad_share,
            split=split,
            dropped=dropped,
            scratch=scratch,
        )

    def documents(self, files: Iterable[SourceFile]) -> Iterator[Document]:
        """The documents of all files, in order; the records of a file that is a copy of another are left out.

        Raises:
            ValueError: a file that is missing, changed, damaged or unfinished, or too many bad documents; names it.
        """
        for file in files:
            with on_this_machine(file, self.scratch) as path:
                for document in self._read(path, file):
                    if file.copy_of is None:
                        yield document
                    else:
                        self._leave_out("duplicate_shard", file.name, document.place, document.text, document.domain)

    def _read(self, path: Path, file: SourceFile) -> Iterator[Document]:
        readers = {JSON: self._json, PARQUET: self._table, CSV: self._table, TSV: self._table}
        return readers.get(file.format, self._plain)(path, file)

    def _plain(self, path: Path, file: SourceFile) -> Iterator[Document]:
        content = b"".join(blocks(path, file.where))
        if holds_json(content):
            del content
            yield from self._json(path, file)
            return
        self.seen += 1
        yield from self._decoded(content, self._no_domain, file.name, 1)

    def _table(self, path: Path, file: SourceFile) -> Iterator[Document]:
        for place, row in self._rows(path, file):
            self.seen += 1
            if row is None or isinstance(row, Overlong):
                reason, size = ("malformed_csv", 0) if row is None else ("overlong", row.size)
                self._leave_out(reason, file.name, place, b"", size=size)
                continue
            domain = self._domain(row.domain)
            if not isinstance(row.text, bytes):
                # a row of a parquet file has every column: null is one without text, as an empty text is
                missing = "empty" if file.format == PARQUET else "missing_text"
                reason = missing if row.text is None else "text_not_a_string"
                self._leave_out(reason, file.name, place, "" if row.text is None else str(row.text), domain)
            elif len(row.text) > self.max_line_bytes:
                self._leave_out("overlong", file.name, place, row.text, domain)
            else:
                yield from self._decoded(row.text, domain, file.name, place)

    def _rows(self, path: Path, file: SourceFile) -> Iterator[tuple[int, Row | Overlong | None]]:
        if file.format == PARQUET:
            yield from parquet_rows(path, file.where, self.text_field, self.domain_field)
            return
        separator = SEPARATORS[file.format]
        yield from csv_rows(
            path, file.where, self.text_field, self.domain_field, separator=separator, most_bytes=self.max_line_bytes
        )

    def _json(self, path: Path, file: SourceFile) -> Iterator[Document]:
        for place, record in json_records(path, file.where, self.max_line_bytes):
            if isinstance(record, Overlong):
                self.seen += 1
                self._leave_out("overlong", file.name, place, record.beginning, size=record.size)
                continue
            try:
                content = json.loads(record.removeprefix(BOM_UTF8).decode("utf-8"))
            except (ValueError, RecursionError) as error:
                self.seen += 1
                reason = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "malformed_json"
                self._leave_out(reason, file.name, place, record)
                continue
            for number, entry in enumerate(records_within(content, self.text_field) or [content]):
                self.seen += 1
                yield from self._record(entry, record, file.name, place + number)

    def _record(self, content: object, record: bytes, file: str, place: int) -> Iterable[Document]:
        """The document that a record is, or none; a record that is a text is all of it."""
        text = content if isinstance(content, str) else field_value(content, self.text_field)
        domain = self._domain(field_value(content, self.domain_field) if self.domain_field else None)
        if isinstance(text, str):
            return self._checked(text, domain, file, place)
        missing = "empty" if holds_null(content, self.text_field) else "missing_text"
        self._leave_out(missing if text is None else "text_not_a_string", file, place, record, domain)
        return ()

    def _decoded(self, content: bytes, domain: str, file: str, place: int) -> Iterable[Document]:
        """The document that the bytes are, or none."""
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            self._leave_out("invalid_utf8", file, place, content, domain)
            return ()
        return self._checked(text, domain, file, place)

    def _checked(self, text: str, domain: str, file: str, place: int) -> Iterable[Document]:
        """The document that the text is, or none."""
        if not text or text.isspace():
            reason = "empty"
        elif "\0" in text:
            reason = "nul_character"
        elif not encodable(text):
            reason = "lone_surrogate"
        else:
            return (Document(text, domain, file, place),)
        self._leave_out(reason, file, place, text, domain)
        return ()

    def _domain(self, value: object) -> str:
        if not self.domain_field:
            return ONLY_DOMAIN
        return domain_name(value) or UNKNOWN_DOMAIN

    def _leave_out(
        self, reason: str, file: str, place: int, text: str | bytes, domain: str = "", *, size: int | None = None
    ) -> None:
        if size is None:
            size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "replace"))
        # four bytes are the longest character
        excerpt = text[: 4 * EXCERPT_CHARACTERS]
        readable = excerpt if isinstance(excerpt, bytes) else excerpt.encode("utf-8", "replace")
        rule = f"{READING}{reason}"
        self.dropped.add(
            self.split,
            domain or self._no_domain,
            rule,
            size=size,
            tokens=None,
            file=file,
            place=place,
            text=readable.decode("utf-8", "replace"),
        )
        if rule not in NOT_BAD:
            self.bad += 1
            if self.bad > self.max_bad_share * max(self.seen, _JUDGED_OVER):
                raise _too_many(self.seen, self.bad, self.dropped, self.max_bad_share)


def require_few_bad(seen: int, bad: int, dropped: DroppedDocuments, max_bad_share: float) -> None:
    """Raise ValueError where a larger share of the `seen` documents is bad than `max_bad_share`; names the first."""
    if bad > max_bad_share * seen:
        raise _too_many(seen, bad, dropped, max_bad_share)


def _too_many(seen: int, bad: int, dropped: DroppedDocuments, max_bad_share: float) -> ValueError:
    rows = [row for row in dropped.rows if row.rule.startswith(READING) and row.rule not in NOT_BAD]
    counts: dict[str, int] = {}
    for row in rows:
        reason = row.rule.removeprefix(READING)
        counts[reason] = counts.get(reason, 0) + row.documents
    reasons = ", ".join(f"{name}: {count}" for name, count in counts.items())
    first = [f"{example.file} line {example.place}" for row in rows for example in row.examples][:_NAMED_PLACES]
    encoded = next((row for row in rows if row.rule in _OF_OTHER_ENCODINGS and row.examples), None)
    convert = ""
    if encoded is not None:
        file = encoded.examples[0].file
        convert = (
            " Text in another encoding than UTF-8 is converted with: iconv -f latin1 -t utf-8 "
            f"{shlex.quote(file)} > {shlex.quote(f'{file}.utf8')}"
        )
    return ValueError(
        f"{bad} of {seen} documents cannot be read ({reasons}); data.max_bad_share={max_bad_share} allows "
        f"{max_bad_share:.2%}. The first are in {', '.join(first)}. Mend or leave out the file, check data.text_field, "
        f"or raise data.max_bad_share.{convert}"
    )


@contextmanager
def on_this_machine(file: SourceFile, scratch: Path | None) -> Iterator[Path]:
    """A source file's path on this machine; it is fetched where it lies elsewhere, and deleted after."""
    storage = Storage(file.root)
    if not storage.remote:
        try:
            yield file.path
            if _differs(storage.listed(file.name), file):
                raise ValueError(f"{file.where} has changed while it was read. Start again when it is whole.")
        except OSError as error:
            raise ValueError(f"{file.where} cannot be read: {error}. Check the file and its permissions.") from error
        return
    if scratch is None:
        raise ValueError(f"{file.where} is not on this machine; expected a folder to fetch it into")
    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / hashlib.sha256(file.where.encode()).hexdigest()[:16]
    try:
        storage.fetch(file.name, target, size=file.size)
        yield target
    finally:
        target.unlink(missing_ok=True)


def _differs(found: Listed, file: SourceFile) -> bool:
    return found.size != file.size or bool(file.version and found.version != file.version)
