"""What `data.source` names: words, a file, a folder, a glob, an address, or a data set of the Hugging Face hub.

A folder with `train/` and `validation/` below it brings its own splits; a `test/` beside them is left alone. Files and
folders whose names begin with a dot are left out, and so are files whose names do not end in a known suffix.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.local_files import status
from litespark.data.storage import Listed, Storage, StorageError, is_remote
from litespark.data.text.files import (
    KNOWN_SUFFIXES,
    Source,
    SourceFile,
    first_files,
    mark_copies,
    within,
)
from litespark.data.text.installed_packages import INSTALLED_PACKAGES, installed_packages
from litespark.data.text.splits import TRAIN, VALIDATION

STANDARD_LIBRARY = "standard_library"
_TEST = "test"
_NOT_IN_STANDARD_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "ensurepip"}
    # tables and generated text, hardly any code
    | {"encodings", "pydoc_data"}
)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB = "hf://datasets/"
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Corpus:
    """The text to train on, and the text to validate on where the source has a split of its own."""

    name: str
    """Fit for a folder's name."""
    training: Source
    validation: Source | None

    @property
    def sources(self) -> tuple[Source, ...]:
        """One, or both."""
        return (self.training,) if self.validation is None else (self.training, self.validation)


def corpus(config: PrepareConfig) -> Corpus:
    """The files that the settings name, listed and not yet read.

    Args:
        config: `source`, and what limits it: `max_files`, `max_bytes`.

    Raises:
        ValueError: nothing there, nothing known in it, or an address that cannot be asked.
    """
    found = _found(config)
    sources = [source if config.max_files is None else first_files(source, config.max_files) for source in found]
    if config.max_bytes is not None:
        size = max(sum(source.size for source in sources), 1)
        sources = [within(source, config.max_bytes * source.size // size) for source in sources]
    # what validates is looked at first: a copy of it among the training files is the one that is left out
    *held_out, training = mark_copies(*reversed(sources))
    return Corpus(found[0].name, training, held_out[0] if held_out else None)


def _found(config: PrepareConfig) -> list[Source]:
    if config.source == INSTALLED_PACKAGES:
        return list(installed_packages(config.validation_fraction))
    if config.source == STANDARD_LIBRARY:
        return [_standard_library()]
    advice = f" {config.how_to_get.strip()}" if config.how_to_get else " Set data.source to a file or folder of text."
    address = config.source.removeprefix("file://")
    path = Path(address).expanduser()
    try:
        if not is_remote(address) and path.exists():
            return _below_path(config.source, path, advice)
        if _MAGIC.search(address):
            return [_matching(config.source, address, advice)]
        if is_remote(address):
            return _below_address(config.source, address, advice)
        if not _HUB_NAME.fullmatch(address):
            raise ValueError(f"data.source={config.source} does not exist.{advice}")
    except StorageError as error:
        raise StorageError(f"data.source={config.source}: {error}") from error
    try:
        # once: more often it is the name of a missing folder, on a machine without a connection
        return _below_address(config.source, _HUB + address, advice, attempts=1)
    except StorageError as error:
        raise StorageError(
            f"data.source={config.source} does not exist.{advice} Nor can it be read as a data set of the Hugging Face "
            f"hub: {error}"
        ) from error


def _standard_library() -> Source:
    storage = Storage(sysconfig.get_path("stdlib"))
    # folder by folder: what is installed below it may be a hundred times as many files
    folders = sorted({path.name for path in storage.local.iterdir() if path.is_dir()} - _NOT_IN_STANDARD_LIBRARY)
    top = [status(storage.local, path.name) for path in storage.local.glob("*.py")]
    listed = [
        file
        for file in chain(top, *(storage.files(folder) for folder in folders))
        if file.name.endswith(".py") and not _NOT_IN_STANDARD_LIBRARY.intersection(file.name.split("/"))
    ]
    nothing = f"{storage.address} is where this Python keeps its library; it has no .py files"
    return _source(STANDARD_LIBRARY, storage, listed, nothing)


def _below_path(source: str, path: Path, advice: str) -> list[Source]:
    if path.is_file():
        folder = Storage(path.parent)
        file = folder.listed(path.name)
        return [_source(_plain_name(path.resolve().name), folder, [file], "", known=lambda name: True)]
    if not path.is_dir():
        raise ValueError(f"data.source={source} is neither a file nor a folder.{advice}")
    return _below_folder(source, Storage(path), path.resolve().name, advice)


def _below_address(source: str, address: str, advice: str, *, attempts: int | None = None) -> list[Source]:
    storage = Storage(address, attempts=attempts)
    folder, _, name = storage.address.rpartition("/")
    if name.lower().endswith(KNOWN_SUFFIXES) and not folder.endswith("/"):
        parent = Storage(folder)
        if parent.exists(name):
            return [_source(_plain_name(name), parent, [parent.listed(name)], "")]
    return _below_folder(source, storage, name, advice)


def _below_folder(source: str, storage: Storage, name: str, advice: str) -> list[Source]:
    """Its splits where it has them, else all of it."""
    nothing = f"holds no file named {' '.join(KNOWN_SUFFIXES)}.{advice}"
    splits = {split: storage.below(split) for split in (TRAIN, VALIDATION)}
    listed = {split: part.files() for split, part in splits.items()}
    if listed[VALIDATION]:
        return [
            _source(_plain_name(name), part, listed[split], f"data.source={source}: {part.address} {nothing}")
            for split, part in splits.items()
        ]
    if listed[TRAIN] and storage.below(_TEST).files():
        raise ValueError(
            f"data.source={source} has {TRAIN}/ and {_TEST}/, but no {VALIDATION}/; expected {TRAIN}/ and "
            f"{VALIDATION}/. Make a {VALIDATION}/, or set data.source={source}/{TRAIN} to hold out a share of that"
        )
    return [_source(_plain_name(name), storage, storage.files(), f"data.source={source} {nothing}")]


def _matching(source: str, address: str, advice: str) -> Source:
    """Files that a glob names, or that lie below a folder that it names."""
    parts = address.split("/")
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    # a relative glob begins here, an absolute one may begin at the root
    storage = Storage("/".join(parts[:fixed]) or ("/" if fixed else "."))
    listed = storage.matching("/".join(parts[fixed:]))
    nothing = f"data.source={source} matches no file named {' '.join(KNOWN_SUFFIXES)}.{advice}"
    return _source(_plain_name(storage.address.rpartition("/")[2]), storage, listed, nothing)


def _known(name: str) -> bool:
    return name.lower().endswith(KNOWN_SUFFIXES) and not any(part.startswith(".") for part in name.split("/"))


def _source(
    name: str, storage: Storage, listed: Iterable[Listed], nothing: str, *, known: Callable[[str], bool] = _known
) -> Source:
    """The known files of a listing, sorted by name; `nothing` is the error where there are none."""
    files = [SourceFile(storage.address, file.name, file.size, file.version) for file in listed if known(file.name)]
    if not files:
        raise ValueError(nothing)
    return Source(name, tuple(sorted(files, key=lambda file: file.name)))


def _plain_name(name: str) -> str:
    for suffix in KNOWN_SUFFIXES:
        name = name.removesuffix(suffix)
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name) or "text"
