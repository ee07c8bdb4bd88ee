"""`litespark prepare`: text to tokens, and the check of a folder that it wrote."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from litespark.cli.command import Command
from litespark.cli.configs import add_overrides, compose


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--check", metavar="FOLDER", type=Path, help="verify a prepared folder instead, hashes included"
    )


def _prepare(options: argparse.Namespace) -> int:
    from litespark.data.manifest import Manifest

    if options.check is not None:
        if options.overrides:
            raise ValueError(f"--check {options.check} takes no overrides, got {' '.join(options.overrides)}")
        return _check_prepared(options.check)

    from litespark.data.config import PrepareConfig
    from litespark.data.preparation.prepare import prepare
    from litespark.experiment.config import parts_from

    config = parts_from(compose(options.overrides)).data
    if not isinstance(config, PrepareConfig):
        raise ValueError("this data is made up while training; there is nothing to prepare. Set data.source to a text")
    folder = prepare(config)
    print(_described(folder, Manifest.read(folder)))
    return 0


def _check_prepared(folder: Path) -> int:
    from litespark.data.chunks import TokenChunks
    from litespark.data.manifest import Manifest
    from litespark.data.tokenizer import Tokenizer

    manifest = Manifest.read(folder)
    for split, counts in manifest.splits.items():
        for domain in counts.domains.values():
            chunks = folder / split / domain.folder
            TokenChunks(chunks, domain.chunks, vocabulary=manifest.vocabulary, verify_hashes=True)
    if Tokenizer.load(folder).hash != manifest.tokenizer_hash:
        raise ValueError(
            f"{folder}: the tokenizer is not the one that the manifest names (its hash differs), so ids would be read "
            "as other text. Delete the folder and prepare the data again"
        )
    print(_described(folder, manifest))
    files = sum(counts.chunk_files for counts in manifest.splits.values())
    print(f"sound: the tokenizer and {files} chunk files have the sizes and hashes that the manifest states")
    return 0


def _described(folder: Path, manifest: Any) -> str:
    lines = [str(folder)]
    for split, counts in manifest.splits.items():
        lines.append(
            f"  {split:10}  {counts.tokens:,} tokens  {counts.bytes:,} bytes of text  {counts.documents:,} documents"
        )
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.ledger.by_rule().items())
    return "\n".join([*lines, f"  dropped     {reasons or 'nothing'}", f"  vocabulary  {manifest.vocabulary:,}"])


PREPARE = Command("turn text into tokens, or check a prepared folder", _prepare_arguments, _prepare)
