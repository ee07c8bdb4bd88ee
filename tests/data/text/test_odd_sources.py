"""Sources as other programs write them: what is read of each, and what is refused, so that no document goes unsaid."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from litespark.data.text.absent_fields import refuse_absent_fields
from litespark.data.text.reader import DocumentReader, require_few_bad
from litespark.data.text.sources import corpus
from tests.data.corpus import config
from tests.data.text.contents import lines, table

pyarrow = pytest.importorskip("pyarrow")

TEXTS = [f"document {number} of the brown fox, which jumps over {number * number} lazy dogs" for number in range(12)]
WHOLE = ["\n".join(TEXTS)]


def zstd(content, **settings):
    return zstandard.ZstdCompressor(**settings).compress(content)


def csv_of(texts, separator=","):
    return ("id" + separator + "text\n" + "".join(f'{n}{separator}"{text}"\n' for n, text in enumerate(texts))).encode()


SEPARATED = [f"{text}\u2028next\u2029\x85end" for text in TEXTS]
LONG = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
RECORDS = [{"text": text} for text in TEXTS]

# name: (content, texts)
READ = {
    "bom.jsonl": (b"\xef\xbb\xbf" + lines(TEXTS, "\r\n"), TEXTS),
    "two_marks.jsonl": (b"\xef\xbb\xbf" + lines(TEXTS[:5]) + b"\xef\xbb\xbf" + lines(TEXTS[5:]), TEXTS),
    "separators.jsonl": (lines(SEPARATED, ensure_ascii=False), SEPARATED),
    "frames.jsonl.zst": (b"".join(zstd(lines([text])) for text in TEXTS) + zstd(b""), TEXTS),
    "long.jsonl.zst": (zstd(lines(TEXTS), compression_params=LONG), TEXTS),
    "members.jsonl.gz": (b"".join(gzip.compress(lines([text])) for text in TEXTS), TEXTS),
    "padded.jsonl.gz": (gzip.compress(lines(TEXTS)) + b"\0" * 512, TEXTS),
    "a.JSONL": (lines(TEXTS), TEXTS),
    "a.jsonl.xz": (lzma.compress(lines(TEXTS)), TEXTS),
    "a.txt.zstd": (zstd(WHOLE[0].encode()), WHOLE),
    "packed_but_not_named_so.jsonl": (gzip.compress(lines(TEXTS)), TEXTS),
    "part-00000": (lines(TEXTS), TEXTS),
    "part-00001": (WHOLE[0].encode(), WHOLE),
    "part-00002": (gzip.compress(lines(TEXTS)), TEXTS),
    "part-00003": (table(TEXTS), TEXTS),
    "part-00004": (csv_of(TEXTS), TEXTS),
    "part-00005": (json.dumps(RECORDS, indent=1).encode(), TEXTS),
    "part-00006": ("".join(json.dumps(text) + "\n" for text in TEXTS).encode(), TEXTS),
    "records.txt": (lines(TEXTS), TEXTS),
    "a.csv": (csv_of(TEXTS), TEXTS),
    "quoted.csv": (b'text,id\r\n"a ""quoted""\r\nline, 1",1\r\nplain,2\r\n', ['a "quoted"\r\nline, 1', "plain"]),
    "one_column.csv": (
        "\n".join(["text", *(text.replace(",", "") for text in TEXTS)]).encode(),
        [text.replace(",", "") for text in TEXTS],
    ),
    "semicolons.csv": (b"id;text\n1;one, two\n2;three\n", ["one, two", "three"]),
    "tabs.csv": (csv_of(TEXTS, "\t"), TEXTS),
    "array.jsonl": (b"[\n" + b",\n".join(lines([text]).strip() for text in TEXTS) + b"\n]", TEXTS),
    "strings.json": (json.dumps(TEXTS).encode(), TEXTS),
    "a b=[c]{d}ü.jsonl": (lines(TEXTS), TEXTS),
    "a.snappy.parquet": (table(TEXTS), TEXTS),
    "dictionary.parquet": (table(pyarrow.array(TEXTS, pyarrow.large_string()).dictionary_encode()), TEXTS),
}


def read_documents(source: Path, **changes):
    """The documents of a source, as a preparation meets them."""
    settings = config(source, "unused", **changes)
    files = corpus(settings).training
    refuse_absent_fields(settings, files, source.parent)
    reader = DocumentReader(settings)
    found = list(reader.documents(files))
    require_few_bad(len(found), reader.dropped, settings.max_bad_share)
    return found


def read(source: Path, **changes):
    return [document.text for document in read_documents(source, **changes)]


def passed_over(source: Path):
    return corpus(config(source, "unused")).listing.passed_over


def write_as(path: Path, records):
    """Records in the format that the name of a file states."""
    if path.suffix == ".parquet":
        path.write_bytes(table({name: [record[name] for record in records] for name in records[0]}))
    elif path.suffix == ".csv":
        rows = "".join(
            ",".join(f'"{value}"' if value else "" for value in record.values()) + "\n" for record in records
        )
        path.write_text(f"{','.join(records[0])}\n{rows}")
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def folder_with(tmp_path, **contents):
    folder = tmp_path / "source"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", READ)
def test_every_document_is_read_alone_and_in_a_folder(tmp_path, name):
    content, texts = READ[name]
    folder = folder_with(tmp_path, **{name: content})
    assert read(folder / name) == texts
    assert read(folder) == texts


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("latin1.txt", "café ".encode("latin-1"), r"invalid_utf8: 1\).*iconv -f ENCODING"),
        ("unmarked.txt", "abc".encode("utf-16-le"), r"nul_character: 1\).*iconv"),
        ("plain.jsonl.bz2", lines(TEXTS), r"plain\.jsonl\.bz2 is damaged or has another format than its name"),
        ("cut.csv", b'id,text\n1,"and no end', r"cut\.csv is truncated or damaged: the quotes in line 2 do not end"),
        ("list.parquet", table([[text] for text in TEXTS]), r"text_not_a_string: 12\)"),
        ("Text.jsonl", lines(TEXTS, field="Text"), r"12 records .*: no field text, but Text\. Set data\.text_field=T"),
        ("a.arrow", b"ARROW1\0\0" + b"x" * 30, "an Arrow file; write it as parquet"),
        ("a.tar.gz", gzip.compress(b"a.txt".ljust(257, b"\0") + b"ustar" + b"\0" * 250, mtime=0), "a tar archive"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path, name, content, said):
    with pytest.raises(ValueError, match=said):
        read(folder_with(tmp_path, **{name: content}) / name)


PASSED_OVER = {
    ".gitattributes": (b"*", "hidden"),
    "LICENSE": (b"MIT", "documentation or metadata"),
    "README.md": (b"# Card", "documentation or metadata"),
    "_SUCCESS": (b"", "documentation or metadata"),
    "b.jsonl.part": (lines(TEXTS[:3]), "a backup or a part of a file"),
    "c.zip": (b"PK\x03\x04", "a zip archive; unpack it"),
    "dataset_info.json": (b"{}", "documentation or metadata"),
    "empty.dat": (b"", "empty"),
    "load.sh": (b"echo 1", "text of an unknown kind"),
    "old.dat": ("café".encode("latin-1"), "not UTF-8; convert it with iconv"),
    "other.log": (b'{"level": "info"}\n{"level": "info"}\n', "JSON without the field text"),
    "picture.png": (b"\x89PNG", "not text"),
    "source.py": (b"import datasets", "documentation or metadata"),
    "unknown.xyz": (b"\0\1\2", "not text"),
}


def test_what_is_passed_over_is_listed_with_its_reason(tmp_path):
    folder = folder_with(tmp_path, **{name: content for name, (content, _) in PASSED_OVER.items()})
    (folder / "a.jsonl").write_bytes(lines(TEXTS))
    listing = corpus(config(folder, "unused")).listing
    assert listing.passed_over == {name: reason for name, (_, reason) in PASSED_OVER.items()}
    assert read(folder) == TEXTS
    kept = listing.to_json()["passed_over"]
    assert {"reason": "hidden", "files": 1, "names": [".gitattributes"]} in kept
    assert sum(group["files"] for group in kept) == len(PASSED_OVER)
    assert "skipped .gitattributes: hidden; LICENSE, README.md, _SUCCESS and 2 more: documentation" in "\n".join(
        listing.lines()
    )


def test_a_name_that_is_not_utf8_is_told(tmp_path):
    folder = folder_with(tmp_path, **{"a.txt": b"text"})
    (folder / "b\udcff.txt").write_bytes(b"text")
    assert "skipped 'b\\udcff.txt': named in another encoding than UTF-8; rename it" in [
        *corpus(config(folder, "x")).listing.lines()
    ]


def test_a_source_of_nothing_but_what_is_passed_over_says_so(tmp_path):
    folder = folder_with(tmp_path, **{"README.md": b"card", "a.log": b'{"level": 1}\n'})
    with pytest.raises(
        ValueError, match=r"no file that can be read, expected .*README\.md: documentation.*a\.log: JSON without"
    ):
        corpus(config(folder, "unused"))
    (folder / "test.jsonl").write_bytes(lines(TEXTS))
    with pytest.raises(ValueError, match=r"holds no training text \(.*test\.jsonl: a test split"):
        corpus(config(folder, "unused"))
    assert read(folder / "test.jsonl") == TEXTS
    assert corpus(config(folder / "test.jsonl", "x")).listing.taken_anyway == ("test.jsonl",)
    assert read(folder / "README.md") == ["card"]


# ---------------------------------------------------------------- fields


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_a_field_with_a_dot_in_its_name_comes_before_a_path(tmp_path, name):
    write_as(tmp_path / name, [{"id": 1, "meta.text": text} for text in TEXTS])
    assert read(tmp_path, text_field="meta.text") == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.json", "a.txt"])
def test_a_field_that_no_record_has_is_refused_with_the_nearest(tmp_path, name):
    write_as(tmp_path / name, [{"text": text, "meta": {"set": "web", "url": "x"}} for text in TEXTS])
    with pytest.raises(
        ValueError,
        match=r"no field meta\.sett, but meta\.set, .*Set data\.domain_field=meta\.set, or data\.domain_field=null",
    ):
        read(tmp_path, domain_field="meta.sett", max_bad_share=1.0)
    with pytest.raises(ValueError, match=r"no field txt, but text, .*Set data\.text_field=text"):
        read(tmp_path, text_field="txt", max_bad_share=1.0)
    assert read(tmp_path, domain_field="meta.set") == TEXTS


def test_a_field_that_one_record_in_one_file_has_is_enough(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.jsonl").write_bytes(lines([f"{text} of {number}" for text in TEXTS]))
    with (tmp_path / "17.jsonl").open("ab") as file:
        file.write(b'{"text": "with a domain", "set": "web"}\n')
    domains = [document.domain for document in read_documents(tmp_path, domain_field="set")]
    assert (domains.count("web"), len(domains)) == (1, 20 * 12 + 1)


@pytest.mark.parametrize("suffix, value", [("jsonl", None), ("jsonl", 1.5), ("parquet", True), ("csv", " ")])
def test_a_field_that_names_nothing_in_any_record_is_refused(tmp_path, suffix, value):
    write_as(tmp_path / f"a.{suffix}", [{"text": text, "set": value, "url": "x"} for text in TEXTS])
    with pytest.raises(
        ValueError, match=r"no name .* in field set, but url\. Set data\.domain_field=url, or data\.domain_field=null"
    ):
        read(tmp_path, domain_field="set")
    assert read(tmp_path, domain_field="url") == TEXTS
