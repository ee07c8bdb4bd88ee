"""What `data.source` names: words, a file, a folder, a glob, an address, or a data set of the Hugging Face hub.

Names may state splits (`layout`), contents are read where names do not state the format (`detection`), and what is
passed over is listed with its reason.
"""

import re
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from litespark.data.config import SourceConfig
from litespark.data.local_files import path_from
from litespark.data.storage import Listed, Storage, StorageError, is_remote
from litespark.data.text.archives import BEGINNING_BYTES
from litespark.data.text.detection import ABOUT_THE_DATA, NOT_UTF8_NAME, Content, content_of, reason_by_name
from litespark.data.text.files import (
    READABLE,
    TEXT,
    Files,
    SourceFile,
    fingerprint,
    format_of,
    mark_copies,
    plain_name,
    size_of,
    within,
)
from litespark.data.text.installed_packages import INSTALLED_PACKAGES, installed_packages
from litespark.data.text.layout import Layout, lay_out
from litespark.data.text.listing import Listing, in_words, printable

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
    training: Files
    validation: Files
    """Empty: the source has no such split."""
    listing: Listing

    @property
    def sides(self) -> list[Files]:
        return [self.training, self.validation] if self.validation else [self.training]


@dataclass(frozen=True)
class ListedSource:
    """What the settings name, listed once; no file is opened before `corpus` is asked for."""

    config: SourceConfig
    fingerprint: list[Any]
    """Changes with the address, and with the name, size and version of any file, as JSON."""
    _look: Callable[[], Corpus]

    def corpus(self) -> Corpus:
        """The files to read, each with the format of its name or content, within the limits of the settings."""
        with _naming(self.config):
            corpus = self._look()
        sides = [corpus.training[: self.config.max_files], corpus.validation[: self.config.max_files]]
        if self.config.max_bytes is not None:
            size = max(sum(map(size_of, sides)), 1)
            sides = [within(side, self.config.max_bytes * size_of(side) // size) for side in sides]
        # what validates is looked at first: a copy of it among the training files is the one that is left out
        validation, training = mark_copies(*reversed(sides))
        return replace(corpus, training=training, validation=validation)


def corpus(config: SourceConfig) -> Corpus:
    return list_source(config).corpus()


def list_source(config: SourceConfig) -> ListedSource:
    """The files that the settings name; ValueError: nothing there, or an address that cannot be asked."""
    if config.source == INSTALLED_PACKAGES:
        sides = installed_packages(config.validation_fraction)
        listing = Listing("whole packages are held out")
        return ListedSource(config, [*map(fingerprint, sides)], lambda: Corpus(INSTALLED_PACKAGES, *sides, listing))
    if config.source == STANDARD_LIBRARY:
        return _standard_library(config)
    address = config.source.removeprefix("file://")
    path = path_from(address)
    with _naming(config):
        if not is_remote(address) and path.is_file():
            folder = Storage(path.parent)
            return _listed(config, folder, [folder.listed(path.name)], path.resolve().name, named=True)
        if not is_remote(address) and path.is_dir():
            return _listed(config, Storage(path), Storage(path).files(), path.resolve().name)
        if _MAGIC.search(address):
            return _matching(config, address)
        if is_remote(address):
            return _below_address(config, address)
    missing = f"data.source={config.source} does not exist.{_advice(config)}"
    if not _HUB_NAME.fullmatch(address):
        raise ValueError(missing)
    try:
        # once: more often it is the name of a missing folder, on a machine without a connection
        return _below_address(config, _HUB + address, attempts=1)
    except StorageError as error:
        raise StorageError(f"{missing} Nor can it be read as a data set of the Hugging Face hub: {error}") from error


@contextmanager
def _naming(config: SourceConfig) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise StorageError(f"data.source={config.source}: {error}") from error


def _advice(config: SourceConfig) -> str:
    return f" {config.how_to_get.strip()}" if config.how_to_get else " Set data.source to a file or folder of text."


def _listed(
    config: SourceConfig, storage: Storage, files: list[Listed], name: str, *, named: bool = False
) -> ListedSource:
    """What a listing gives; `named`: its files are named themselves, or by a glob."""
    fingerprint = [storage.address, *((file.name, file.size, file.version) for file in files)]
    return ListedSource(config, fingerprint, lambda: _look(config, storage, files, name, named))


def _standard_library(config: SourceConfig) -> ListedSource:
    storage = Storage(sysconfig.get_path("stdlib"))
    # folder by folder: what is installed below it may be a hundred times as many files
    folders = sorted({path.name for path in storage.local.iterdir() if path.is_dir()} - _NOT_IN_STANDARD_LIBRARY)
    top = [storage.listed(path.name) for path in storage.local.glob("*.py")]
    listed = [
        file
        for file in chain(top, *(storage.files(folder) for folder in folders))
        if file.name.endswith(".py") and not _NOT_IN_STANDARD_LIBRARY.intersection(file.name.split("/"))
    ]
    return _listed(config, storage, listed, STANDARD_LIBRARY)


def _below_address(config: SourceConfig, address: str, *, attempts: int | None = None) -> ListedSource:
    storage = Storage(address, attempts=attempts)
    folder, _, name = storage.address.rpartition("/")
    # a file is listed as what is below itself
    below = [] if format_of(name) is not None else [file for file in storage.files() if file.name != "."]
    if not below and not folder.endswith("/"):
        parent = Storage(folder, attempts=attempts)
        if parent.exists(name):
            return _listed(config, parent, [parent.listed(name)], name, named=True)
    return _listed(config, storage, below or storage.files(), name)


def _matching(config: SourceConfig, address: str) -> ListedSource:
    """Files that a glob names, or that lie below a folder that it names."""
    parts = address.split("/")
    fixed = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    # a relative glob begins here, an absolute one may begin at the root
    storage = Storage("/".join(parts[:fixed]) or ("/" if fixed else "."))
    listed = storage.matching("/".join(parts[fixed:]))
    if not listed:
        raise ValueError(f"data.source={config.source} matches no file.{_advice(config)}")
    return _listed(config, storage, listed, storage.address.rpartition("/")[2], named=True)


def _look(config: SourceConfig, storage: Storage, listed: list[Listed], name: str, named: bool) -> Corpus:
    alone = named and len(listed) == 1
    passed_over: dict[str, str] = {}
    files: dict[str, SourceFile] = {}
    for file in listed:
        kind, reason = _content(config, storage, file, alone)
        if reason:
            passed_over[file.name] = reason
        else:
            files[file.name] = SourceFile(storage.address, file.name, file.size, file.version, kind)
    if alone and passed_over:
        (reason,) = passed_over.values()
        raise ValueError(f"data.source={printable(config.source)} is {reason}, or name another source")
    _leave_out_what_serves_records(files, passed_over, name)
    layout = lay_out({name: alone or file.holds_records for name, file in files.items()}, one_split_is_meant=named)
    listing = _listing(layout, passed_over)
    if not layout.training:
        raise _nothing(config, listing, splits=bool(files))
    training, validation = (
        tuple(sorted((files[file] for file in side), key=lambda file: file.name))
        for side in (layout.training, layout.validation)
    )
    plain = re.sub(r"[^\w-]", "_", plain_name(name))
    return Corpus(plain or "text", training, validation, listing)


def _content(config: SourceConfig, storage: Storage, file: Listed, alone: bool) -> Content:
    reason = reason_by_name(file.name)
    if reason and not (alone and reason != NOT_UTF8_NAME):
        return Content(None, reason)
    if format_of(file.name) is not None:
        return Content(None)
    head = storage.head(file.name, BEGINNING_BYTES) if file.size else b""
    content = content_of(head, file.name, config.record_field)
    if alone and "; " not in content.reason:  # else what to do with it is known
        return Content(content.format or TEXT)
    return content


def _leave_out_what_serves_records(files: dict[str, SourceFile], passed_over: dict[str, str], name: str) -> None:
    """Beside records, text of an unknown kind and a script named after the data set are there to load them."""
    if any(file.holds_records for file in files.values()):
        for file in list(files.values()):
            if file.found_format == TEXT or file.name.lower() == f"{name.lower()}.py":
                passed_over[file.name] = ABOUT_THE_DATA if file.found_format is None else "text of an unknown kind"
                del files[file.name]


def _listing(layout: Layout, passed_over: dict[str, str]) -> Listing:
    splits = "none in the source, so data.validation_fraction of the documents is held out"
    if layout.validation:
        splits = f"from the source, {len(layout.training)} training and {len(layout.validation)} validation files"
    return Listing(splits, dict(sorted({**passed_over, **layout.left_out}.items())), layout.taken_anyway)


def _nothing(config: SourceConfig, listing: Listing, *, splits: bool) -> ValueError:
    what = "holds no training text" if splits else f"holds no file that can be read, expected {READABLE}"
    there = f" ({in_words(listing.passed_over)})" if listing.passed_over else ""
    own = " A file or folder of a split that is named itself is taken: data.source=FOLDER/FILE." if splits else ""
    return ValueError(f"data.source={config.source} {what}{there}.{own}{_advice(config)}")
