"""The manifest of a prepared data set: written last, so that chunks without one are not a data set."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from litespark.data.chunks import ChunkRecord
from litespark.data.dropped import DroppedDocuments
from litespark.data.storage import Storage

FILE = "manifest.json"
SCHEMA: Final = "litespark.data/3"
# what a reader is served depends on these alone: not on where the text lay, nor on what was counted besides
IDENTITY = ("vocab_size", "eos_id", "bos_id", "tokenizer_hash", "token_bytes", "splits", "packing", "seq_len")
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class DomainCounts:
    """What one domain of one split holds; EOS ends each document and has no bytes."""

    folder: str
    """Below that of the split; holds the chunks."""
    documents: Count
    tokens: Count
    bytes: Count
    """That the tokens decode to."""
    text_bytes: Count
    """Of the texts in UTF-8; the same number where the tokenizer loses and adds nothing."""
    lengths: list[Count] = field(default_factory=list)
    """Entry k: documents of 2^k to 2^(k+1)-1 tokens."""
    chunks: list[ChunkRecord] = field(default_factory=list)


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds, by domain; domains are sorted by name. The sums are those of `DomainCounts`."""

    domains: dict[str, DomainCounts]

    @property
    def documents(self) -> int:
        return sum(domain.documents for domain in self.domains.values())

    @property
    def tokens(self) -> int:
        return sum(domain.tokens for domain in self.domains.values())

    @property
    def bytes(self) -> int:
        return sum(domain.bytes for domain in self.domains.values())

    @property
    def text_bytes(self) -> int:
        return sum(domain.text_bytes for domain in self.domains.values())

    @property
    def chunk_files(self) -> int:
        return sum(len(domain.chunks) for domain in self.domains.values())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a prepared folder holds and how it came about."""

    schema: Literal["litespark.data/3"] = SCHEMA
    name: str
    vocab_size: Count
    eos_id: Count | None
    """Id that ends a document; None only for synthetic data without documents."""
    bos_id: Count | None
    tokenizer_hash: str
    token_bytes: list[Count]
    """Length in bytes of what each id decodes to; 0 for special ids."""
    splits: dict[str, SplitCounts]
    """By name: train, validation."""
    unigram_entropy: float
    """Nats per token of the validation tokens under the frequencies of the training tokens: the cross-entropy
    -Σ c(v) ln((n(v) + 1) / (N + V)) / Σ c(v), where c counts the validation tokens, n the N training tokens, and V ids
    are smoothed by adding one."""
    settings: dict[str, Any]
    dropped: DroppedDocuments
    """What was left out, and why."""
    code_version: str
    packing: str = "concat"
    """`concat`: one stream of tokens a domain. `best_fit`: sequences of `seq_len` + 1 ids, padded with EOS. `examples`:
    whole examples in tables, which are laid into sequences of `seq_len`; a document is an example, `tokens` are its
    inputs, and those of a file the places of its sequences."""
    seq_len: Count | None = None
    """That the sequences were laid out for; None with `concat`, which any length can read."""
    listing: dict[str, Any] = field(default_factory=dict)
    """Where the splits come from, and which files of the source were passed over and why."""

    def bytes_per_token(self, split: str) -> float:
        """Mean bytes of text per token of a split: of the text itself, not of what its tokens decode to."""
        return self.splits[split].text_bytes / self.splits[split].tokens

    def filled(self, split: str) -> float:
        """The share of the places in a split's sequences that hold a token; the others of packed ones hold padding."""
        if self.packing == "concat":
            return 1.0
        counts = self.splits[split]
        places = sum(chunk.tokens for domain in counts.domains.values() for chunk in domain.chunks)
        return min(1.0, counts.tokens / places)

    def unigram_bits_per_byte(self) -> float | None:
        """The unigram entropy in bits per byte of validation text; None where the ids stand for no text."""
        if not self.splits["validation"].text_bytes:
            return None
        return self.unigram_entropy / (math.log(2) * self.bytes_per_token("validation"))

    @property
    def hash(self) -> str:
        """SHA-256 of all that decides which sequences are read, chunk hashes included, as hexadecimal."""
        content = self._content()
        identity = {key: content[key] for key in IDENTITY}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def write(self, storage: Storage) -> None:
        """Write `manifest.json` at once, one key a line."""
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in self._content().items())
        storage.write(FILE, f"{{\n{lines}\n}}\n".encode())

    def summary(self) -> dict[str, Any]:
        """What a run folder keeps of it, as plain values: all but the chunks and the bytes of each id."""
        content = self._content()
        del content["token_bytes"]
        for split in content["splits"].values():
            for domain in split["domains"].values():
                del domain["chunks"]
        return {"manifest_hash": self.hash, **content}

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = _MANIFEST.dump_python(self)
        return content

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest of a prepared folder, a path or an address; a ValueError where there is none of this schema."""
        storage = Storage(folder)
        where = storage.where(FILE)
        if not storage.remote and not storage.local.is_dir():
            raise ValueError(f"{folder} is not a folder; expected one that `litespark prepare` wrote, with {FILE}")
        if not storage.exists(FILE):
            raise ValueError(
                f"{folder} has no {FILE}, so its chunks are not a data set: the preparation did not finish or another "
                "tool wrote them. Prepare the text (again): litespark prepare data.source=FOLDER_OR_FILE"
            )
        remedy = "Move the folder away and prepare the data again"
        manifest: Manifest = checked(_MANIFEST, storage.read(FILE), where, remedy)
        if len(manifest.token_bytes) != manifest.vocab_size:
            raise ValueError(
                f"{where} states a vocabulary of {manifest.vocab_size} but the bytes of {len(manifest.token_bytes)} "
                f"tokens. {remedy}."
            )
        return manifest


def checked(kind: TypeAdapter[Any], text: bytes, where: str, remedy: str) -> Any:
    """What a JSON text holds; otherwise a ValueError with the file, the first fault and the remedy."""
    try:
        return kind.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        # another schema explains all the rest
        faults = sorted(error.errors(include_url=False), key=lambda fault: fault["loc"] != ("schema",))
        place = ".".join(map(str, faults[0]["loc"]))
        raise ValueError(
            f"{where} is not a manifest that this version reads ({place}: {faults[0]['msg']}, got "
            f"{faults[0]['input']!r:.80}). {remedy}."
        ) from error


_MANIFEST = TypeAdapter(Manifest)
