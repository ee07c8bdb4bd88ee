"""Settings of the data, one flat group; checks that need the data are where the data is."""

from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from litespark.config.settings import BY_CONTENT, FIXED, MAY_CHANGE, Switch, settings
from litespark.data.select.config import SelectionConfig, SomeText
from litespark.ranges import Count, CountFromZero, InnerShare, NotNegative, Processes, Range, Share

_NOT_OF_THE_CONTENT = {"source", "root", "name", "how_to_get", "processes", "nodes", "node_rank"}
# int32 ids and the header stay below 2^32 bytes
LARGEST_CHUNK_TOKENS = 2**29


@settings("data", kw_only=True, resume=FIXED)
class ReadingConfig:
    """How prepared tokens are cut into sequences and served."""

    seq_len: Count
    """S; a sequence holds S+1 ids."""
    micro_batch_size: Annotated[Count, MAY_CHANGE]
    """Sequences of one forward pass on one rank."""
    workers: Annotated[int, Range(at_least=0, at_most=1024), MAY_CHANGE] = 0
    """Processes that read ahead; the batches do not depend on it."""
    shuffle: Switch = True
    """Draw a new order of the training sequences each epoch, from the seed."""
    document_mask: Switch = True
    """Keep attention and positions within documents."""
    training_sequences: Count | None = None
    """Train on the first so many sequences only, for instance to overfit them; None: all."""
    validation_sequences: Annotated[Count | None, MAY_CHANGE] = None
    """Validate on so many sequences, spread evenly over the split; None: all."""
    verify_hashes: Annotated[Switch, MAY_CHANGE] = False
    """Hash every chunk: at the start, or when it arrives where the data is remote; sizes are always checked."""
    mixture: dict[str, NotNegative] | None = None
    """Share of the training sequences by domain, in any unit, 0 to leave one out; None: by size."""
    mixture_temperature: Annotated[float, Range(at_least=0.01)] = 1.0
    """By size: shares follow sequences^(1/temperature); 1 is each sequence once an epoch, more lifts small domains."""
    cache: Annotated[str | None, MAY_CHANGE] = None
    """Folder that keeps chunks of remote data, also for other runs; needed where the data is remote."""
    cache_bytes: Annotated[Count, MAY_CHANGE] = 200 * 10**9
    """The cache deletes the chunks that were used longest ago above this."""

    def __post_init__(self) -> None:
        if self.mixture is not None and self.mixture_temperature != 1:
            raise ValueError(
                "data.mixture and data.mixture_temperature are both set, expected one; set the latter to 1"
            )
        if self.mixture is not None and not any(self.mixture.values()):
            raise ValueError(f"data.mixture={self.mixture}; expected a share above 0 for one domain at least")


@settings("data", kw_only=True, resume=BY_CONTENT)
class SourceConfig(ReadingConfig):
    """Where records and their tokenizer come from, and where what is prepared of them is written."""

    source: Annotated[SomeText, Field(examples=["FOLDER_OR_FILE"])]
    """`standard_library`, `installed_packages`, a file, folder or glob of text, here or behind an address
    (`s3://`, `gs://`, `hf://`, or a data set's name on the Hugging Face hub), or a folder that `prepare` wrote."""
    root: SomeText
    """Folder that holds the prepared folders; a path or an address."""
    vocab_size: Count
    """Ids of the tokenizer: one that is trained here gets as many, one that is given has at most as many."""
    name: Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*$")] | None = None
    """First part of the prepared folder's name; None: after the source."""
    tokenizer: str | None = None
    """A tokenizer.json, a Hugging Face folder or name, or a sentencepiece model; None: that of the model's folder where
    it has weights, else train byte-level BPE on the training documents (examples: refused)."""
    eos_token: str | None = None
    """Special token that ends a document, for a tokenizer that does not name its own."""
    validation_fraction: InnerShare = 0.05
    """Share of the documents held out, chosen by a hash of their text, of examples by a hash of their prompt
    (`installed_packages`: of the packages, by a hash of their name); unused where the source has its own split."""
    max_bytes: Count | None = None
    """Take whole files in an order that their names decide until they hold so many bytes, each split its share; None:
    all."""
    max_files: Count | None = None
    """Take only the first so many files of each split, sorted by name; None: all."""
    max_bad_share: Share = 0.01
    """Share of unreadable documents above which preparation stops."""
    max_line_bytes: Count = 50_000_000
    """A longer line is not a document: it is counted as bad and never held in memory."""
    how_to_get: str | None = None
    """Appended to the error for a missing source: commands that would provide it."""

    @property
    def record_field(self) -> str | None:
        """The field that tells records from other JSON; None: any will do."""
        return None

    def preparation(self) -> dict[str, Any]:
        """The settings that decide what is written: not how it is read, nor where it lies."""
        left_out = {entry.name for entry in fields(ReadingConfig)} | _NOT_OF_THE_CONTENT
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in left_out}


@settings("data", kw_only=True, resume=BY_CONTENT)
class PrepareConfig(SourceConfig):
    """Which text becomes which tokens, and where they are written."""

    add_bos: Literal["auto", True, False] = "auto"
    """Whether BOS begins each document, and each prompt; `auto`: as the tokenizer puts it before a text."""
    tokenizer_sample_bytes: Count = 50_000_000
    """Bytes of training text that a tokenizer is trained on."""
    text_field: SomeText = "text"
    """Field of a record that holds the text; `a.b` is the field of that name, else field b of a."""
    domain_field: str | None = None
    """Field of a record that names its domain, such as `meta.redpajama_set_name`; None: there is one domain."""
    packing: Literal["concat", "best_fit"] = "concat"
    """`concat`: documents one behind the other, read at any sequence length. `best_fit`: laid out for
    `seq_len` so that few documents are cut (Ding et al. 2024)."""
    unit_bytes: Count = 256 * 10**6
    """Source files are prepared in units of about so much text; an interrupted preparation loses those under way."""
    processes: Processes | None = None
    """That prepare; None: one for each core that this process may use. The result does not depend on it."""
    nodes: Count = 1
    """Machines that prepare together, each started with its own `node_rank`."""
    node_rank: CountFromZero = 0
    """Which of them this is, from 0: it prepares every `nodes`-th unit."""
    selection: SelectionConfig = SelectionConfig()
    """Which training documents are left out."""
    chunk_tokens: Annotated[
        int, Range(at_least=1, at_most=LARGEST_CHUNK_TOKENS, why="LitData counts the bytes of a chunk in 32 bits")
    ] = 32 * 1024 * 1024
    """Tokens of one chunk file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.node_rank >= self.nodes:
            raise ValueError(f"data.node_rank={self.node_rank}; expected 0 to {self.nodes - 1}, below data.nodes")

    @property
    def record_field(self) -> str | None:
        return self.text_field

    def preparation(self) -> dict[str, Any]:
        length = self.seq_len if self.packing == "best_fit" else None
        return super().preparation() | {"selection": asdict(self.selection), "seq_len": length}


@settings("data", kw_only=True, resume=FIXED)
class SyntheticConfig(ReadingConfig):
    """Random ids that need no files; sequences are a pure function of the seed."""

    vocab_size: Annotated[int, Range(at_least=2, why="one of them ends documents")]
    """Ids to draw from."""
    document_length: Count | None = None
    """Every so many tokens an EOS (id 0) ends a document; None: one endless document."""
    synthetic_sequences: Annotated[
        int, Range(at_least=1, at_most=2**32, why="their windows are shuffled in memory")
    ] = 1_000_000
    """Training sequences of an epoch."""
    synthetic_validation_sequences: Annotated[int, Range(at_least=1, at_most=2**32)] = 8
    """Validation sequences."""
