"""The format of a file without a known suffix: by its first bytes, or a reason to pass it over."""

import codecs
import json
import re
from typing import NamedTuple

from litespark.data.text.archives import BEGINNING_BYTES, beginning, without_compression
from litespark.data.text.fields import field_value
from litespark.data.text.files import CSV, JSON, PARQUET, TEXT, TSV

HIDDEN = "hidden"
ABOUT_THE_DATA = "documentation or metadata"
EMPTY = "empty"
NO_TEXT = "not text"
NOT_UTF8_NAME = "named in another encoding than UTF-8; rename it"
_UNFINISHED = "a backup or a part of a file"
_PARTIAL_SUFFIXES = tuple(".part .partial .incomplete .crdownload .tmp .swp .bak .old .orig ~".split())
# these are not opened: a bucket may hold many
_NO_TEXT_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in "png jpg jpeg gif webp bmp tif tiff ico mp3 mp4 wav flac ogg avi mov mkv pdf pyc so o a dll exe bin "
    "pt pth ckpt safetensors npy npz idx pkl pickle woff woff2 ttf lock md5 sha1 sha256".split()
)
_ABOUT = re.compile(
    r"readme([._-]\w+)*|(dataset|data)[_-]?(card|sheet)s?(\.\w+)?"
    r"|(licen[cs]e|copying|notice)([.-](apache|mit|bsd|gpl|lgpl|lesser|cc0?)([.-][\w.-]*)?)?(\.(md|txt|rst|html))?"
    r"|(changelog|citation|contributing|authors|code_of_conduct|security)(\.(md|txt|rst|cff|bib))?"
    r"|(dataset_infos?|dataset_dict|state|croissant|manifest|index|checksums?)\.(json|ya?ml)|checksums?\.txt"
    r"|metadata\.(json|jsonl|ya?ml|csv|parquet)"
    r"|(sha\d+|md5)sums?(\..*)?|requirements.*\.txt|_success|_common_metadata|_metadata",
    re.IGNORECASE,
)
_MAGIC = {
    b"PAR1": "parquet within an archive; unpack it",
    b"ARROW1": "an Arrow file; write it as parquet",
    b"\xff\xff\xff\xff": "an Arrow stream or another binary file; write it as parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"%PDF": NO_TEXT,
}
_UNREAD_PACKINGS = tuple(".lz4 .br .sz .snappy .lzma .lzo .z .zip .7z .rar .tar .tgz .tbz2 .txz".split())
_TAR_AT = 257
_RECORD = re.compile(r'(\[\s*)?\{\s*"(?:[^"\\]|\\.)*+"\s*:')


class Content(NamedTuple):
    """What a file holds, or why it is passed over."""

    format: str | None
    reason: str = ""


def reason_by_name(name: str) -> str | None:
    """Why a file of a folder is passed over whatever it holds; None: it is not."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return NOT_UTF8_NAME
    *folders, file = name.lower().split("/")
    if any(part.startswith(".") for part in (*folders, file)):
        return HIDDEN
    if _ABOUT.fullmatch(file):
        return ABOUT_THE_DATA
    if file.endswith(_PARTIAL_SUFFIXES):
        return _UNFINISHED
    return NO_TEXT if file.endswith(_NO_TEXT_SUFFIXES) else None


def content_of(head: bytes, name: str, text_field: str | None) -> Content:
    """What a file holds, by its first `BEGINNING_BYTES` and the suffix of its name for how it is packed.

    Records without `text_field` are no text; None: any will do.
    """
    if not head:
        return Content(None, EMPTY)
    unpacked = beginning(head, name)
    if head.startswith(b"PAR1"):
        return Content(PARQUET)
    for magic, reason in _MAGIC.items():
        if unpacked.startswith(magic):
            return Content(None, reason)
    if unpacked[_TAR_AT : _TAR_AT + 5] == b"ustar":
        return Content(None, "a tar archive; unpack it")
    if name.lower().endswith(_UNREAD_PACKINGS):
        return Content(None, "an archive of a kind that is not read; unpack it")
    if b"\0" in unpacked or not unpacked:
        packed = not unpacked and without_compression(name) != name.lower()
        return Content(None, "damaged, or packed in a way that is not read" if packed else NO_TEXT)
    whole = max(len(head), len(unpacked)) < BEGINNING_BYTES
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(unpacked.removeprefix(codecs.BOM_UTF8), final=whole)  # else the last character may be cut
    except UnicodeDecodeError:
        return Content(None, "not UTF-8; convert it with iconv")
    if not text.strip():
        return Content(None, EMPTY)
    return _content_of_text(text.lstrip(), whole, text_field)


def holds_json(text: bytes) -> bool:
    """Whether what is called a plain text is records of JSON: they are read as such, never as text."""
    start = text[:BEGINNING_BYTES].lstrip()
    return start[:1] in (b"{", b"[") and _first_record(start.decode("utf-8", "replace")) is not None


def _content_of_text(text: str, whole: bool, text_field: str | None) -> Content:
    first = _first_record(text)
    if first is not None:
        # nothing is known of a record that is longer than what is here
        if text_field is not None and first and field_value(first, text_field) is None:
            return Content(None, f"JSON without the field {text_field}")
        return Content(JSON)
    lines = [line for line in text.split("\n")[: None if whole else -1] if line.strip()]
    if lines and isinstance(_parsed(lines[0]), list):
        return Content(JSON)
    if len(lines) > 1:
        if all(isinstance(_parsed(line), str) for line in lines):
            return Content(JSON)
        for separator, kind in ((",", CSV), ("\t", TSV)):
            if text_field in [name.strip('" ') for name in lines[0].split(separator)]:
                return Content(kind)
    return Content(TEXT)


def _first_record(text: str) -> dict[str, object] | None:
    """The first record of what is an object of JSON or an array of them, empty where its end is not here; else None."""
    if not _RECORD.match(text):
        return None
    try:
        first: dict[str, object] = json.JSONDecoder().raw_decode(text, text.index("{"))[0]
    except (ValueError, RecursionError):
        return {}
    return first


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
