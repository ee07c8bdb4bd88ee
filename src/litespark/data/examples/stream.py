"""The data module of prepared examples: packed sequences of whole examples, in the exact order of all data modules.

A sequence of a split is fixed by the data and the sequence length (`rows`), so position p is a pure function of
(seed, p), and a resume continues with the very next one.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.atomic import content_hash
from litespark.data.batch import TokenBatch
from litespark.data.chunks import difference
from litespark.data.config import ReadingConfig
from litespark.data.examples.batch import pack
from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.example import Example
from litespark.data.examples.rows import rows_of
from litespark.data.examples.store import FILE, ExampleFile
from litespark.data.examples.write import COLUMNS, PACKING
from litespark.data.manifest import Manifest
from litespark.data.stream.loader import MakeBatch
from litespark.data.stream.modules import PreparedDataModule
from litespark.data.stream.sequences import DomainSequences
from litespark.data.text.document import ONLY_DOMAIN
from litespark.data.text.splits import TRAIN, VALIDATION
from litespark.mesh import Mesh

Row = list[tuple[int, Example]]
"""The numbered examples of one packed sequence."""


class ExampleRows:
    """The packed sequences of a split, by their number."""

    def __init__(self, path: Path, config: ExamplesConfig) -> None:
        self.file = ExampleFile(path)
        shared = self.file.shared() if config.share_prompts else None
        self.rows = rows_of(self.file.lengths(), config.format, config.seq_len, shared)
        self.count = len(self.rows)

    def sequence(self, number: int) -> Row:
        return [(example, self.file[example]) for example in self.rows[number]]


class ExampleSequences(DomainSequences):
    """Those of a split as the loaders read them."""

    def __init__(self, rows: ExampleRows) -> None:
        self.rows = rows
        super().__init__({ONLY_DOMAIN: rows})

    def served(self, sequences: NDArray[np.int64]) -> list[Row]:
        return [self.rows.sequence(int(number)) for number in sequences]


class ExampleDataModule(PreparedDataModule):
    """Packed sequences of a folder that `examples.prepare` wrote, as `ExampleBatch`es; see `pack` for `last_ids`.

    ValueError: another folder, or one for another sequence length or format; a file that is not as the manifest states.
    """

    def __init__(
        self, place: Path | str, config: ExamplesConfig, *, seed: int, mesh: Mesh | None = None, last_ids: bool = False
    ) -> None:
        self.last_ids = last_ids
        self.folder = Path(place)
        self.place = str(self.folder.absolute())
        manifest = Manifest.read(self.folder)
        _require_prepared_for(manifest, config, self.folder)
        self.config = config
        self.columns: list[str] = manifest.settings[COLUMNS]
        splits = [
            ExampleSequences(ExampleRows(_checked(self.folder, manifest, split, config), config))
            for split in (TRAIN, VALIDATION)
        ]
        super().__init__(splits, manifest, config, seed=seed, mesh=mesh)

    def examples(self, split: str) -> ExampleFile:
        """The examples of a split by their number."""
        return ExampleFile(self.folder / split / ONLY_DOMAIN / FILE)

    def _make_batch(self) -> MakeBatch:
        eos_id = self.manifest.eos_id
        assert eos_id is not None
        of = {"columns": self.columns, "last_ids": self.last_ids, "share_prompts": self.config.share_prompts}
        return partial(_packed, seq_len=self.seq_len, fill_id=eos_id, of=of)


def _packed(
    rows: list[Row], *, seq_len: int, fill_id: int, of: dict[str, Any], real_sequences: int | None = None
) -> TokenBatch:
    """A batch of the rows, those behind `real_sequences` empty."""
    real = len(rows) if real_sequences is None else real_sequences
    kept = [row if number < real else [] for number, row in enumerate(rows)]
    return pack(kept, seq_len, fill_id=fill_id, **of)


def _require_prepared_for(manifest: Manifest, config: ExamplesConfig, folder: Path) -> None:
    if manifest.packing != PACKING:
        raise ValueError(
            f"{folder} holds prepared text, expected examples; name the records that they are made of as data.source, "
            "or choose data=text"
        )
    asked = {"seq_len": config.seq_len, "format": config.format, "share_prompts": config.share_prompts}
    there = {
        "seq_len": manifest.seq_len,
        "format": manifest.settings.get("format"),
        "share_prompts": manifest.settings.get("share_prompts", False),
    }
    if differing := [name for name in asked if asked[name] != there[name]]:
        raise ValueError(
            f"{folder}: got examples prepared for "
            + ", ".join(f"data.{name}={there[name]}, expected {asked[name]}" for name in differing)
            + "; set these, or name the records and prepare them again"
        )


def _checked(folder: Path, manifest: Manifest, split: str, reading: ReadingConfig) -> Path:
    path = folder / split / ONLY_DOMAIN / FILE
    (record,) = manifest.splits[split].domains[ONLY_DOMAIN].chunks
    size = path.stat().st_size if path.is_file() else 0
    digest = (lambda: content_hash(path)) if reading.verify_hashes else None
    if (wrong := difference(record, size, digest)) is not None:
        raise ValueError(f"{path} {wrong}. Copy it again, or delete the folder and prepare the examples again")
    return path
