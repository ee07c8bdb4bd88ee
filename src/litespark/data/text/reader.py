"""Documents from the files of a source; what is no document is counted under its reason.

Everything is decoded from bytes, a record at a time, so that one bad byte costs one document. A file that cannot be
read whole is an error: nothing is lost in silence.
"""

import hashlib
import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.dropped import EXCERPT_CHARACTERS, DroppedDocuments, DroppedRow
from litespark.data.storage import Storage
from litespark.data.text.archives import blocks
from litespark.data.text.detection import holds_json
from litespark.data.text.document import ONLY_DOMAIN, UNKNOWN_DOMAIN, Document, domain_name, encodable
from litespark.data.text.fields import Row, field_value
from litespark.data.text.files import JSON, PARQUET, TEXT, SourceFile
from litespark.data.text.formats import Overlong, json_records
from litespark.data.text.splits import TRAIN
from litespark.data.text.tables import csv_rows, parquet_rows

READING = "reading/"
_NOT_BAD = frozenset({f"{READING}empty", f"{READING}duplicate_shard"})
# a share says something about a corpus, not about its first hundred lines
_JUDGED_OVER = 100_000
_NAMED_PLACES = 3


class DocumentReader:
    """Reads the documents of files of one split, and counts under it what is left out.

    It stops as soon as there are more bad documents than `config.max_bad_share` of a hundred thousand, or of all that
    were read where those are more; `require_few_bad` judges the whole. `scratch` is a folder of this reader alone, for
    files that have to be fetched.

    Attributes:
        seen: documents met, those left out included.
        bad: those that were left out because something is wrong with them.
    """

    def __init__(
        self,
        config: PrepareConfig,
        *,
        split: str = TRAIN,
        dropped: DroppedDocuments | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.config = config
        self.split = split
        self.dropped = DroppedDocuments() if dropped is None else dropped
        self.scratch = scratch
        self.seen = 0
        self.bad = 0

    def documents(self, files: Iterable[SourceFile]) -> Iterator[Document]:
        """The documents of all files, in order; ValueError: a file that cannot be read whole, or too many bad ones."""
        for file in files:
            with on_this_machine(file, self.scratch) as path:
                for place, row in rows(path, file, self.config):
                    self.seen += 1
                    domain = ONLY_DOMAIN
                    if self.config.domain_field:
                        domain = domain_name(row.domain) or UNKNOWN_DOMAIN
                    text = row.text if row.fault else _decoded(row.text)
                    reason = row.fault or _fault(text) or ("duplicate_shard" if file.copy_of else "")
                    if reason:
                        self._leave_out(reason, domain, file.name, place, text, row.size)
                    elif isinstance(text, str):
                        yield Document(text, domain, file.name, place)

    def _leave_out(self, reason: str, domain: str, file: str, place: int, text: str | bytes, size: int | None) -> None:
        # four bytes are the longest character
        excerpt = _bytes(text[: 4 * EXCERPT_CHARACTERS]).decode("utf-8", "replace")
        rule = f"{READING}{reason}"
        size = len(_bytes(text)) if size is None else size
        self.dropped.add(self.split, domain, rule, size=size, tokens=None, file=file, place=place, text=excerpt)
        if rule not in _NOT_BAD:
            self.bad += 1
            if self.bad > self.config.max_bad_share * max(self.seen, _JUDGED_OVER):
                raise _too_many(self.seen, self.bad, self.dropped, self.config.max_bad_share)


def _decoded(text: str | bytes) -> str | bytes:
    """A text; bytes that are none come back as they are."""
    try:
        return text if isinstance(text, str) else text.decode("utf-8")
    except UnicodeDecodeError:
        return text


def _fault(text: str | bytes) -> str:
    if isinstance(text, bytes):
        return "invalid_utf8"
    if not text or text.isspace():
        return "empty"
    if "\0" in text:
        return "nul_character"
    return "" if encodable(text) else "lone_surrogate"


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def require_few_bad(kept: int, dropped: DroppedDocuments, max_bad_share: float) -> None:
    """Raise ValueError where a larger share is bad than `max_bad_share` of all, `kept` and dropped; names the first."""
    seen = kept + dropped.documents()
    bad = sum(row.documents for row in _bad_rows(dropped))
    if bad > max_bad_share * seen:
        raise _too_many(seen, bad, dropped, max_bad_share)


def _bad_rows(dropped: DroppedDocuments) -> list[DroppedRow]:
    return [row for row in dropped.rows if row.rule.startswith(READING) and row.rule not in _NOT_BAD]


def _too_many(seen: int, bad: int, dropped: DroppedDocuments, max_bad_share: float) -> ValueError:
    rows = _bad_rows(dropped)
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.rule.removeprefix(READING)] += row.documents
    reasons = ", ".join(f"{name}: {count}" for name, count in counts.items())
    first = [f"{example.file} line {example.place}" for row in rows for example in row.examples][:_NAMED_PLACES]
    convert = ""
    if {"invalid_utf8", "nul_character"} & counts.keys():
        convert = " Text in another encoding is converted with: iconv -f ENCODING -t utf-8 FILE > FILE.utf8"
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
            size = storage.listed(file.name)
        except OSError as error:
            raise ValueError(f"{file.where} cannot be read: {error}. Check the file and its permissions.") from error
        if (size.size, size.version) != (file.size, file.version):
            raise ValueError(f"{file.where} has changed while it was read. Start again when it is whole.")
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


def rows(path: Path, file: SourceFile, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    """(place, row) of every record of a file that lies at `path`; a plain text is one."""
    if file.format == PARQUET:
        return parquet_rows(path, file.where, config)
    if file.format == JSON:
        return _json_rows(path, file.where, config)
    return _plain_rows(path, file.where, config) if file.format == TEXT else csv_rows(path, file, config)


def _plain_rows(path: Path, name: str, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    content = b"".join(blocks(path, name))
    if holds_json(content):
        del content
        yield from _json_rows(path, name, config)
    else:
        yield 1, Row(content)


def _json_rows(path: Path, name: str, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    for place, row in json_rows(path, name, config.max_line_bytes):
        yield place, row if row.fault else _json_row(row.record, row.text, config)


def json_rows(path: Path, name: str, most_bytes: int) -> Iterator[tuple[int, Row]]:
    """(place, row) of every record of a file of JSON: its bytes, and all that it holds or its fault."""
    for place, record in json_records(path, name, most_bytes):
        if isinstance(record, Overlong):
            yield place, Row(record.beginning, fault="overlong", size=record.size)
            continue
        try:
            content = json.loads(record.removeprefix(BOM_UTF8).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            fault = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "malformed_json"
            yield place, Row(record, fault=fault)
            continue
        yield place, Row(record, record=content)


def _json_row(entry: object, record: str | bytes, config: PrepareConfig) -> Row:
    text = entry if isinstance(entry, str) else field_value(entry, config.text_field)
    domain = field_value(entry, config.domain_field) if config.domain_field else None
    if text is None and isinstance(entry, dict) and config.text_field in entry:
        text = ""
    if isinstance(text, str):
        return Row(text, domain, record=entry)
    return Row(record, domain, "missing_text" if text is None else "text_not_a_string", record=entry)
