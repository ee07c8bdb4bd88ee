"""The manifest of a prepared data set: written last, so that chunks without one are not a data set."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from litespark.data.chunks import ChunkRecord

FILE = "manifest.json"
SCHEMA = "litespark.data/1"


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds. `bytes` are those that its tokens decode to; EOS ends each document and has none."""

    documents: int
    tokens: int
    bytes: int
    chunks: list[ChunkRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds and how it came about."""

    name: str
    vocabulary: int
    eos_id: int | None
    """Id that ends a document; None only for synthetic data without documents."""
    bos_id: int | None
    tokenizer_hash: str
    token_bytes: list[int]
    """Length in bytes of what each id decodes to; 0 for special ids."""
    splits: dict[str, SplitCounts]
    """By name: train, validation."""
    unigram_entropy: float
    """Nats per token of the validation tokens under the frequencies of the training tokens.

    The cross-entropy -Σ c(v) ln((n(v) + 1) / (N + V)) / Σ c(v), where c counts the validation tokens, n the N training
    tokens, and V ids are smoothed by adding one: what a model gains nothing over if it learns only how frequent each
    token is.
    """
    settings: dict[str, Any]
    dropped: dict[str, int]
    """Documents left out, by reason."""
    code_version: str

    def bytes_per_token(self, split: str) -> float:
        """Mean bytes of text per token of a split."""
        return self.splits[split].bytes / self.splits[split].tokens

    def unigram_bits_per_byte(self) -> float:
        """The unigram entropy in bits per byte of validation text."""
        return self.unigram_entropy / (math.log(2) * self.bytes_per_token("validation"))

    @property
    def hash(self) -> str:
        """SHA-256 of everything stated, chunk hashes included, as hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into the folder, one key a line."""
        content = {"schema": SCHEMA, **asdict(self)}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        (folder / FILE).write_text("{\n" + lines + "\n}\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a prepared folder.

        Raises:
            ValueError: no folder, no manifest in it, or one that is not of this schema.
        """
        path = folder / FILE
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; expected one that `litespark prepare` wrote, with {FILE}")
        if not path.is_file():
            raise ValueError(
                f"{folder} has no {FILE}, so its chunks are not a data set: the preparation did not finish or another "
                "tool wrote them. Move it away and prepare the text again: litespark prepare data.source=FOLDER_OR_FILE"
            )
        try:
            content = json.loads(path.read_bytes())
            found = content.pop("schema")
            if found != SCHEMA:
                raise ValueError(f"schema {found!r}, expected {SCHEMA!r}")
            splits = {
                name: SplitCounts(**{**counts, "chunks": [ChunkRecord(**chunk) for chunk in counts["chunks"]]})
                for name, counts in content.pop("splits").items()
            }
            manifest = cls(splits=splits, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a manifest that this version reads ({error}). Move the folder away and prepare the "
                "data again."
            ) from error
        if len(manifest.token_bytes) != manifest.vocabulary:
            raise ValueError(
                f"{path} states a vocabulary of {manifest.vocabulary} but the bytes of {len(manifest.token_bytes)} "
                "tokens. Move the folder away and prepare the data again."
            )
        return manifest
