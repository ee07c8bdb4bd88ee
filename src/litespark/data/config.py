"""Settings of the data, one flat group: what to prepare, and how to read it.

Plain dataclasses, so that `plan` and the command line can use them without Lightning. Every check on a single setting
is here; checks that need the data are where the data is.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from litespark.data.selection.config import SelectionConfig

PACKINGS = ("concat", "best_fit")
_NOT_OF_THE_CONTENT = {"source", "root", "name", "how_to_get", "processes", "nodes", "node_rank"}
# int32 ids and the header stay below 2^32 bytes
LARGEST_CHUNK_TOKENS = 2**29


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How prepared tokens are cut into rows and served."""

    sequence_length: int
    """S; a row holds S+1 ids."""
    micro_batch_size: int
    """Rows of one forward pass on one rank."""
    workers: int = 0
    """Processes that read ahead; the batches do not depend on it."""
    shuffle: bool = True
    """Draw a new order of the training rows each epoch, from the seed."""
    document_mask: bool = True
    """Keep attention and positions within documents."""
    training_rows: int | None = None
    """Train on the first so many rows only, for instance to overfit them; None: all."""
    validation_rows: int | None = None
    """Validate on so many rows, spread evenly over the split; None: all."""
    verify_hashes: bool = False
    """Hash every chunk: at the start, or when it arrives where the data is remote; sizes are always checked."""
    mixture: dict[str, float] | None = None
    """Share of the training rows by domain, in any unit, 0 to leave one out; None: by size."""
    mixture_temperature: float = 1.0
    """By size: shares follow rows^(1/temperature); 1 is each row once an epoch, more lifts the small domains."""
    cache: str | None = None
    """Folder that keeps chunks of remote data, also for other runs; needed where the data is remote."""
    cache_bytes: int = 200 * 10**9
    """The cache deletes the chunks that were used longest ago above this."""

    def __post_init__(self) -> None:
        for name in ("sequence_length", "micro_batch_size", "training_rows", "validation_rows"):
            value = getattr(self, name)
            if value is None and name.endswith("_rows"):
                continue
            require_whole(f"data.{name}", value, at_least=1)
        require_whole("data.workers", self.workers, at_least=0)
        require_whole("data.cache_bytes", self.cache_bytes, at_least=1)
        _require_mixture(self.mixture, self.mixture_temperature)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(ReadingConfig):
    """Which text becomes which tokens, and where they are written."""

    source: str
    """`standard_library`, `installed_packages`, a file, folder or glob of text, here or behind an address
    (`s3://`, `gs://`, `hf://`, or a data set's name on the Hugging Face hub), or a folder that `prepare` wrote."""
    root: str
    """Folder that holds the prepared folders; a path or an address."""
    vocabulary: int
    """Ids of the tokenizer: one that is trained here gets as many, one that is given must have as many."""
    name: str | None = None
    """First part of the prepared folder's name; None: after the source."""
    tokenizer: str | None = None
    """A tokenizer.json, a Hugging Face folder or name, or a sentencepiece model; None: train byte-level BPE on the
    training documents."""
    eos_token: str | None = None
    """Special token that ends a document, for a tokenizer that does not name its own."""
    tokenizer_sample_bytes: int = 50_000_000
    """Bytes of training text that a tokenizer is trained on."""
    text_field: str = "text"
    """Field of a record that holds the text; `a.b` is field b of a."""
    domain_field: str | None = None
    """Field of a record that names its domain, such as `meta.redpajama_set_name`; None: there is one domain."""
    validation_fraction: float = 0.05
    """Share of the documents held out, chosen by a hash of their text (`installed_packages`: of the packages, by a hash
    of their name); unused where the source has its own split."""
    max_bytes: int | None = None
    """Take whole files in an order that their names decide until they hold so many bytes, each split its share; None:
    all."""
    max_files: int | None = None
    """Take only the first so many files of each split, sorted by name; None: all."""
    max_bad_share: float = 0.01
    """Share of unreadable documents above which preparation stops."""
    max_line_bytes: int = 50_000_000
    """A longer line is not a document: it is counted as bad and never held in memory."""
    packing: str = "concat"
    """`concat`: documents one behind the other, read at any sequence length. `best_fit`: laid out for
    `sequence_length` so that few documents are cut (Ding et al. 2024)."""
    unit_bytes: int = 256 * 10**6
    """Source files are prepared in units of about so much text; an interrupted preparation loses those under way."""
    processes: int | None = None
    """That prepare; None: one for each core that this process may use. The result does not depend on it."""
    nodes: int = 1
    """Machines that prepare together, each started with its own `node_rank`."""
    node_rank: int = 0
    """Which of them this is, from 0: it prepares every `nodes`-th unit."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """Which training documents are left out."""
    chunk_tokens: int = 32 * 1024 * 1024
    """Tokens of one chunk file."""
    how_to_get: str | None = None
    """Appended to the error for a missing source: commands that would provide it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("data.vocabulary", self.vocabulary, at_least=1)
        require_whole("data.tokenizer_sample_bytes", self.tokenizer_sample_bytes, at_least=1)
        require_whole("data.chunk_tokens", self.chunk_tokens, at_least=1)
        for name in ("max_bytes", "max_files", "processes"):
            if getattr(self, name) is not None:
                require_whole(f"data.{name}", getattr(self, name), at_least=1)
        for name in ("max_line_bytes", "unit_bytes", "nodes"):
            require_whole(f"data.{name}", getattr(self, name), at_least=1)
        require_whole("data.node_rank", self.node_rank, at_least=0)
        if self.node_rank >= self.nodes:
            raise ValueError(f"data.node_rank={self.node_rank}; expected 0 to {self.nodes - 1}, below data.nodes")
        if self.packing not in PACKINGS:
            raise ValueError(f"data.packing={self.packing!r}; expected one of {', '.join(PACKINGS)}")
        if self.chunk_tokens > LARGEST_CHUNK_TOKENS:
            raise ValueError(
                f"data.chunk_tokens={self.chunk_tokens}; expected at most {LARGEST_CHUNK_TOKENS}, since LitData counts "
                "the bytes of a chunk in 32 bits"
            )
        for name in ("source", "root", "text_field"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"data.{name}={getattr(self, name)!r}; expected a text that is not empty")
        if self.name is not None and not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(
                f"data.name={self.name!r}; expected letters, digits, - and _: it is the name of a folder in data.root"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"data.validation_fraction={self.validation_fraction}; expected a share between 0 and 1, both excluded"
            )
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share={self.max_bad_share}; expected a share from 0 to 1")

    def preparation(self) -> dict[str, Any]:
        """The settings that decide what is written: not how it is read, nor where it lies."""
        left_out = {entry.name for entry in fields(ReadingConfig)} | _NOT_OF_THE_CONTENT
        settings = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in left_out}
        length = self.sequence_length if self.packing == "best_fit" else None
        return settings | {"selection": asdict(self.selection), "sequence_length": length}


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(ReadingConfig):
    """Random ids that need no files; rows are a pure function of the seed."""

    vocabulary: int
    document_length: int | None = None
    """Every so many tokens an EOS (id 0) ends a document; None: one endless document."""
    synthetic_rows: int = 1_000_000
    """Training rows of an epoch."""
    synthetic_validation_rows: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("data.vocabulary", self.vocabulary, at_least=2)
        require_whole("data.synthetic_rows", self.synthetic_rows, at_least=1)
        require_whole("data.synthetic_validation_rows", self.synthetic_validation_rows, at_least=1)
        if self.document_length is not None:
            require_whole("data.document_length", self.document_length, at_least=1)


def require_whole(name: str, value: object, *, at_least: int) -> None:
    """Raise ValueError unless `value` is an int of at least `at_least`; a bool is not an int here."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least {at_least}")


def _require_mixture(mixture: dict[str, float] | None, temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"data.mixture_temperature={temperature}; expected a finite number above 0")
    if mixture is None:
        return
    if temperature != 1:
        raise ValueError("data.mixture and data.mixture_temperature are both set, expected one; set the latter to 1")
    if not mixture or not all(math.isfinite(share) and share >= 0 for share in mixture.values()):
        raise ValueError(f"data.mixture={mixture}; expected a share of at least 0 for each domain")
    if not any(mixture.values()):
        raise ValueError(f"data.mixture={mixture}; expected a share above 0 for one domain at least")
