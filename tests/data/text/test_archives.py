"""Unpacking in blocks, and archives that are not whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random

import pytest
import zstandard

from litespark.data.text.archives import BLOCK_BYTES, blocks

# of which little can be packed, over several blocks of zstd
CONTENT = random.Random(0).randbytes(400_000) + b"x" * 600_000
SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"


def zstd(content, **settings):
    return zstandard.ZstdCompressor(**settings).compress(content)


def unpacked(folder, name, packed):
    (folder / name).write_bytes(packed)
    return b"".join(blocks(folder / name, name))


WHOLE = {
    "one frame": zstd(CONTENT),
    "with checksum": zstd(CONTENT, write_checksum=True),
    "without its size": zstd(CONTENT, write_content_size=False),
    "two frames": zstd(CONTENT[:70_000]) + zstd(CONTENT[70_000:]),
    "skippable frames": SKIPPABLE + zstd(CONTENT) + SKIPPABLE,
    "an empty frame": zstd(CONTENT) + zstd(b""),
    "a long window": zstd(
        CONTENT, compression_params=zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_archives_of_zstd_come_back(tmp_path, kind):
    assert unpacked(tmp_path, "a.zst", WHOLE[kind]) == CONTENT


def test_gzip_and_plain_files_come_back_without_the_mark_of_utf8(tmp_path):
    two = gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:])
    assert unpacked(tmp_path, "a.gz", two) == CONTENT
    assert unpacked(tmp_path, "a.txt", b"\xef\xbb\xbfabc\xef\xbb\xbf") == b"abc\xef\xbb\xbf"
    assert unpacked(tmp_path, "empty.txt", b"") == b""


@pytest.mark.parametrize("kind", WHOLE)
def test_an_archive_of_zstd_that_is_cut_anywhere_is_refused(tmp_path, kind):
    packed = WHOLE[kind]
    ends_of_frames = {
        "two frames": {len(zstd(CONTENT[:70_000]))},
        "an empty frame": {len(zstd(CONTENT))},
        "skippable frames": {len(SKIPPABLE), len(packed) - len(SKIPPABLE)},
    }.get(kind, set())
    cuts = {*range(0, 40), *range(len(packed) - 40, len(packed)), *range(0, len(packed), 9973)} - ends_of_frames
    for cut in sorted(cuts):
        with pytest.raises(ValueError, match=r"a\.zst is (truncated|damaged)"):
            unpacked(tmp_path, "a.zst", packed[:cut])


@pytest.mark.parametrize("name, pack", [("a.gz", gzip.compress), ("a.bz2", bz2.compress), ("a.xz", lzma.compress)])
def test_other_archives_that_are_cut_are_refused(tmp_path, name, pack):
    packed = pack(CONTENT)
    for keep in (0, 5, 300, 200_000, -1):
        with pytest.raises(ValueError, match=rf"{name} is truncated"):
            unpacked(tmp_path, name, packed[:keep])


@pytest.mark.parametrize(("name", "pack"), [("a.zst", zstd), ("a.gz", gzip.compress)])
def test_no_block_is_larger_than_stated_however_well_it_was_packed(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b"x" * (20 * BLOCK_BYTES)))
    assert [len(block) for block in blocks(tmp_path / name, name)] == [BLOCK_BYTES] * 20


@pytest.mark.parametrize(("name", "pack"), [("a.zst", zstd), ("a.gz", gzip.compress)])
def test_what_is_no_archive_or_is_damaged_or_has_more_behind_it_is_refused(tmp_path, name, pack):
    flipped = bytearray(WHOLE["with checksum"] if pack is zstd else pack(CONTENT))
    flipped[200_000] ^= 1
    for packed in (b"plain text, not an archive", pack(CONTENT) + b"something else", b"x", bytes(flipped)):
        with pytest.raises(ValueError, match=rf"{name} is (damaged or has another|truncated).*Copy or down"):
            unpacked(tmp_path, name, packed)
