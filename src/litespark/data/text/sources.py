"""What `data.source` names: words, a file, a folder, a glob, an address, or a data set of the Hugging Face hub.

Names of files and folders may state splits (`layout`), and a test split is never trained on. A file whose name does not
tell what it holds is looked into (`detection`). What is passed over is listed with its reason. A file that is named
itself is taken whatever its name is.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from litespark.data.config import PrepareConfig
from litespark.data.local_files import path_from
from litespark.data.storage import Listed, Storage, StorageError, is_remote
from litespark.data.text.archives import BEGINNING_BYTES
from litespark.data.text.detection import ABOUT_THE_DATA, NO_FILE, Content, content_of, reason_by_name
from litespark.data.text.files import (
    READABLE,
    TEXT,
    Source,
    SourceFile,
    first_files,
    format_of,
    mark_copies,
    plain_name,
    within,
)
from litespark.data.text.installed_packages import INSTALLED_PACKAGES, installed_packages
from litespark.data.text.layout import Layout, lay_out
from litespark.data.text.listing import Listing, printable

STANDARD_LIBRARY = "standard_library"
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
    listing: Listing

    @property
    def sources(self) -> tuple[Source, ...]:
        """One, or both."""
        return (self.training,) if self.validation is None else (self.training, self.validation)


@dataclass(frozen=True)
class ListedSource:
    """What the settings name, listed once; no file is opened before `corpus` is asked for."""

    config: PrepareConfig
    fingerprint: list[Any]
    """Changes with the address, and with the name, size and version of any file, as JSON."""
    _look: Callable[[], Corpus]

    def corpus(self) -> Corpus:
        """The files to read, each by what its name or its content tells, within the limits that the settings set.

        Raises:
            ValueError: nothing known in it, or a file that cannot be read.
        """
        with _naming(self.config):
            found = self._look()
        sources = list(found.sources)
        if self.config.max_files is not None:
            sources = [first_files(source, self.config.max_files) for source in sources]
        if self.config.max_bytes is not None:
            size = max(sum(source.size for source in sources), 1)
            sources = [within(source, self.config.max_bytes * source.size // size) for source in sources]
        # what validates is looked at first: a copy of it among the training files is the one that is left out
        *held_out, training = mark_copies(*reversed(sources))
        return replace(found, training=training, validation=held_out[0] if held_out else None)


def list_source(config: PrepareConfig) -> ListedSource:
    """The files that the settings name.

    Raises:
        ValueError: nothing there, or an address that cannot be asked.
    """
    if config.source == INSTALLED_PACKAGES:
        split = installed_packages(config.validation_fraction)
        listing = Listing("whole packages are held out")
        fingerprint = [source.fingerprint() for source in split]
        return ListedSource(config, fingerprint, lambda: Corpus(INSTALLED_PACKAGES, *split, listing))
    if config.source == STANDARD_LIBRARY:
        return _standard_library(config)
    advice = f" {config.how_to_get.strip()}" if config.how_to_get else " Set data.source to a file or folder of text."
    address = config.source.removeprefix("file://")
    path = path_from(address)
    with _naming(config):
        if not is_remote(address) and path.exists():
            return _below_path(config, path, advice)
        if _MAGIC.search(address):
            return _matching(config, address, advice)
        if is_remote(address):
            return _below_address(config, address, advice)
    if not _HUB_NAME.fullmatch(address):
        raise ValueError(f"data.source={config.source} does not exist.{advice}")
    try:
        # once: more often it is the name of a missing folder, on a machine without a connection
        return _below_address(config, _HUB + address, advice, attempts=1)
    except StorageError as error:
        raise StorageError(
            f"data.source={config.source} does not exist.{advice} Nor can it be read as a data set of the Hugging Face "
            f"hub: {error}"
        ) from error


def corpus(config: PrepareConfig) -> Corpus:
    """The files that the settings name, listed and not yet read; see `ListedSource.corpus`."""
    return list_source(config).corpus()


@contextmanager
def _naming(config: PrepareConfig) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StorageError(f"data.source={config.source}: {error}") from error


def _listed(
    config: PrepareConfig, storage: Storage, files: list[Listed], look: Callable[..., Corpus], *more: Any
) -> ListedSource:
    """`look` gets the config, the storage, the files and `more`."""
    fingerprint = [storage.address, *((file.name, file.size, file.version, file.regular) for file in files)]
    return ListedSource(config, fingerprint, partial(look, config, storage, files, *more))


def _standard_library(config: PrepareConfig) -> ListedSource:
    storage = Storage(sysconfig.get_path("stdlib"))
    # folder by folder: what is installed below it may be a hundred times as many files
    folders = sorted({path.name for path in storage.local.iterdir() if path.is_dir()} - _NOT_IN_STANDARD_LIBRARY)
    top = [storage.listed(path.name) for path in storage.local.glob("*.py")]
    listed = [
        file
        for file in chain(top, *(storage.files(folder) for folder in folders))
        if file.name.endswith(".py") and not _NOT_IN_STANDARD_LIBRARY.intersection(file.name.split("/"))
    ]
    if not listed:
        raise ValueError(f"{storage.address} is where this Python keeps its library; it has no .py files")
    return _listed(config, storage, listed, _library_corpus)


def _library_corpus(_: PrepareConfig, storage: Storage, listed: list[Listed]) -> Corpus:
    files = [SourceFile(storage.address, file.name, file.size, file.version) for file in listed]
    return Corpus(STANDARD_LIBRARY, _sorted(STANDARD_LIBRARY, files), None, Listing(_held_out_share()))


def _below_path(config: PrepareConfig, path: Path, advice: str) -> ListedSource:
    name = path.resolve().name
    if path.is_file():
        folder = Storage(path.parent)
        return _listed(config, folder, [folder.listed(path.name)], _one_file, name)
    if not path.is_dir():
        raise ValueError(f"data.source={config.source} is neither a file nor a folder.{advice}")
    storage = Storage(path)
    return _listed(config, storage, storage.files(), _several, name, advice)


def _below_address(config: PrepareConfig, address: str, advice: str, *, attempts: int | None = None) -> ListedSource:
    storage = Storage(address, attempts=attempts)
    folder, _, name = storage.address.rpartition("/")
    # a file is listed as what is below itself
    below = [] if format_of(name) is not None else [file for file in storage.files() if file.name != "."]
    if not below and not folder.endswith("/"):
        parent = Storage(folder, attempts=attempts)
        if parent.exists(name):
            return _listed(config, parent, [parent.listed(name)], _one_file, name)
    return _listed(config, storage, below or storage.files(), _several, name, advice)


def _matching(config: PrepareConfig, address: str, advice: str) -> ListedSource:
    """Files that a glob names, or that lie below a folder that it names."""
    parts = address.split("/")
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    # a relative glob begins here, an absolute one may begin at the root
    storage = Storage("/".join(parts[:fixed]) or ("/" if fixed else "."))
    listed = storage.matching("/".join(parts[fixed:]))
    if not listed:
        raise ValueError(f"data.source={config.source} matches no file.{advice}")
    return _listed(config, storage, listed, _several, storage.address.rpartition("/")[2], advice, True)


def _one_file(config: PrepareConfig, storage: Storage, files: list[Listed], name: str) -> Corpus:
    """A file that is named itself."""
    (file,) = files
    if "; rename" in (reason := reason_by_name(file.name) or ""):
        raise ValueError(f"data.source={printable(config.source)} has {reason}")
    found = None
    if format_of(file.name) is None:
        content = _content(storage, file, config)
        if "; " in content.reason:  # what to do with it is known
            raise ValueError(f"data.source={config.source} is {content.reason}, or name another source")
        found = content.format or TEXT
    taken = {file.name: SourceFile(storage.address, file.name, file.size, file.version, found)}
    layout = lay_out({file.name: True}, one_split_is_meant=True)
    source = _sorted(_plain_name(name), taken.values())
    return Corpus(source.name, source, None, _listing(layout, taken, {}))


def _several(
    config: PrepareConfig,
    storage: Storage,
    listed: list[Listed],
    name: str,
    advice: str,
    one_split_is_meant: bool = False,
) -> Corpus:
    """Files of a folder or glob: what they hold, which of them are of which split, which are passed over."""
    passed_over: dict[str, str] = {}
    files: dict[str, SourceFile] = {}
    for file in listed:
        reason = reason_by_name(file.name) if file.regular else NO_FILE
        kind = format_of(file.name)
        if reason is None and kind is None:
            kind, reason = _content(storage, file, config)
        if kind is None or reason:
            passed_over[file.name] = reason or ""
        else:
            found = None if format_of(file.name) else kind
            files[file.name] = SourceFile(storage.address, file.name, file.size, file.version, found)
    _leave_out_what_serves_records(files, passed_over, name)
    layout = lay_out({name: file.holds_records for name, file in files.items()}, one_split_is_meant=one_split_is_meant)
    listing = _listing(layout, files, passed_over)
    if not layout.training:
        raise ValueError(_nothing(config, listing, advice, splits=bool(files)))
    name = _plain_name(name)
    training, validation = (
        _sorted(name, [files[file] for file in names]) for names in (layout.training, layout.validation)
    )
    return Corpus(name, training, validation if validation.files else None, listing)


def _leave_out_what_serves_records(files: dict[str, SourceFile], passed_over: dict[str, str], name: str) -> None:
    """Beside records, text of an unknown kind and a script named after the data set are there to load them."""
    if not any(file.holds_records for file in files.values()):
        return
    for file in list(files.values()):
        if file.found_format == TEXT or file.name.lower() == f"{name.lower()}.py":
            passed_over[file.name] = ABOUT_THE_DATA if file.found_format is None else "text of an unknown kind"
            del files[file.name]


def _content(storage: Storage, file: Listed, config: PrepareConfig) -> Content:
    head = storage.head(file.name, BEGINNING_BYTES) if file.size else b""
    return content_of(head, file.name, config.text_field)


def _listing(layout: Layout, files: dict[str, SourceFile], passed_over: dict[str, str]) -> Listing:
    if layout.validation:
        splits = f"from the source, {len(layout.training)} training and {len(layout.validation)} validation files"
    else:
        splits = _held_out_share()
    return Listing(
        splits,
        passed_over=dict(sorted({**passed_over, **layout.left_out}.items())),
        by_content={
            name: file.found_format
            for name, file in sorted(files.items())
            if file.found_format is not None and name not in layout.left_out
        },
        taken_anyway=layout.taken_anyway,
    )


def _nothing(config: PrepareConfig, listing: Listing, advice: str, *, splits: bool) -> str:
    what = "holds no training text" if splits else f"holds no file that can be read, expected {READABLE}"
    there = f" ({listing.passed_over_in_words()})" if listing.passed_over else ""
    own = " A file or folder of a split that is named itself is taken: data.source=FOLDER/FILE." if splits else ""
    return f"data.source={config.source} {what}{there}.{own}{advice}"


def _held_out_share() -> str:
    return "none in the source, so data.validation_fraction of the documents is held out"


def _sorted(name: str, files: Iterable[SourceFile]) -> Source:
    return Source(name, tuple(sorted(files, key=lambda file: file.name)))


def _plain_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in plain_name(name)) or "text"
