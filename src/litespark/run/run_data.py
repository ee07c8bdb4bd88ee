"""The prepared data of a run that is resumed: the folder it was trained on, by content, wherever it lies now.

What makes the data of a run is the hash of its manifest. The folder is the one that `data.source` names, or that
the run recorded, or that one below another `data.root`; raw text is prepared only where the folder is gone.
"""

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from litespark.atomic import write_whole
from litespark.config.groups import on_resume
from litespark.config.settings import BY_CONTENT, fields_of
from litespark.data import manifest as manifests
from litespark.data.config import PrepareConfig, SourceConfig
from litespark.data.contents import PreparedData
from litespark.data.examples.config import ExamplesConfig
from litespark.data.manifest import Manifest
from litespark.data.modules import prepared_folder
from litespark.data.prepare.prepare import already_prepared
from litespark.data.storage import Storage
from litespark.data.tokenizer import Tokenizer
from litespark.run.config import ConfigError, Parts
from litespark.run.folder import CONFIG, DATA_PLACE, TOKENIZER, read_config
from litespark.training.checkpoint.folder import Checkpoint

log = logging.getLogger(__name__)

PREPARATION = frozenset(
    name
    for kind in (PrepareConfig, ExamplesConfig)
    for name in fields_of(kind)
    if on_resume(f"data.{name}", kind) is BY_CONTENT
)
"""Keys of `data` that say how the data of a run is prepared: of no account once it is."""


def record_place(folder: Path, place: Path | str) -> None:
    """Note in a run's folder where its prepared data lies."""
    storage = Storage(place)
    address = storage.address if storage.remote else str(storage.local.absolute())
    write_whole(folder / DATA_PLACE, f"{json.dumps({'prepared': address})}\n".encode())


def data_of_run(parts: Parts, folder: Path, checkpoint: Checkpoint, given: Collection[str]) -> Path | str:
    """The prepared folder that the run in `folder` goes on with."""
    return _Search(parts, folder, checkpoint, given).found()


class _Search:
    def __init__(self, parts: Parts, folder: Path, checkpoint: Checkpoint, given: Collection[str]) -> None:
        assert isinstance(parts.data, SourceConfig)
        self.config, self.folder, self.given = parts.data, folder, PREPARATION & set(given)
        self.hash, self.run = str(checkpoint.about.get("manifest_hash")), PreparedData.read(folder)
        self.source = self.run.settings.get("source")
        # two runs on the same text share what the first of them has prepared
        own = read_config(folder / CONFIG)["data"].get("source")
        self.names_text = "source" in self.given and self.config.source not in (self.source, own)
        self.refused = f"resume={parts.resume}: "

    def found(self) -> Path | str:
        if "source" in self.given and (named := self._named()) is not None:
            return named
        places = self._places()
        place = next((place for place in places if self._is_it(place)), None)
        if place is None:
            return self._prepared_again(places)
        if self.names_text:
            raise ConfigError(
                f"{self.refused}got data.source={self.config.source}, expected {self.source}: the prepared data of "
                f"the run is in {place}. Leave data.source out to continue with it, or start a new run"
            )
        self._require_same_settings(self.given)
        log.info("data: %s, as used by this run; the source text is not read", place)
        return place

    def _named(self) -> Path | str | None:
        """The prepared folder that `data.source` names, if that is what it names."""
        try:
            named = already_prepared(self.config)
        except ValueError:
            if self.names_text:
                raise
            return None
        if named is not None:
            self._require_same_hash(named, "Leave data.source out to continue with the data of the run")
        return named

    def _require_same_hash(self, place: Path | str, remedy: str) -> None:
        if (manifest := Manifest.read(place)).hash != self.hash:
            raise ConfigError(
                f"{self.refused}data.source={self.config.source} is other data than the run was trained on: manifest "
                f"hash {manifest.hash[:12]} ({manifest.name}), expected {self.hash[:12]} ({self.run.name}). {remedy}, "
                "or start a new run"
            )

    def _places(self) -> list[str]:
        """Where the folder may lie: as recorded, or with its name below `data.root`."""
        recorded: list[str] = []
        try:
            recorded.append(str(json.loads((self.folder / DATA_PLACE).read_text())["prepared"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s is damaged (%s) and not used", self.folder / DATA_PLACE, error)
        names = [*(place.rpartition("/")[2] for place in recorded), self.run.name]
        return list(dict.fromkeys([*recorded, *(Storage(self.config.root).where(name) for name in names)]))

    def _is_it(self, place: str) -> bool:
        try:
            return Storage(place).exists(manifests.FILE) and Manifest.read(place).hash == self.hash
        except ValueError as error:
            log.warning("passing over %s: %s", place, error)
            return False

    def _require_same_settings(self, keys: Collection[str]) -> None:
        """Refuse settings that would prepare other data; those that say where it lies do not count."""
        now = to_jsonable_python(self.config.preparation())
        was = {**now, **self.run.settings}
        # the tokenizer by its content, which decides BOS too, and the vocabulary where none is trained
        followed = {"tokenizer", "max_bad_share"}
        if now.get("add_bos") == "auto":
            followed.add("add_bos")
        if (now["tokenizer"], was["tokenizer"]) != (None, None):
            followed.add("vocab_size")
        different = {key for key in keys if key in now and now[key] != was[key] and key not in followed}
        if "tokenizer" in keys and not self._same_tokenizer(was["tokenizer"]):
            different.add("tokenizer")
        if different:
            raise ConfigError(
                f"{self.refused}these settings would prepare other data than the run was trained on:\n"
                + "\n".join(f"  data.{key}: was {was[key]!r}, is now {now[key]!r}" for key in sorted(different))
                + "\nLeave them out to continue with the data of the run, or start a new run"
            )

    def _same_tokenizer(self, was: Any) -> bool:
        named = self.config.tokenizer
        if named == was or named is None:
            return named == was
        try:
            return Tokenizer.load(named).hash == Tokenizer.load(self.folder / TOKENIZER).hash
        except ValueError:
            return False

    def _prepared_again(self, places: list[str]) -> Path | str:
        gone = f"{self.refused}the prepared data of the run is gone (looked in {', '.join(places)})"
        remedy = f"Set data.source=FOLDER to where it is now, or to the text it was prepared from ({self.source})"
        if "source" not in self.given and self.config.source != self.source:
            raise ConfigError(f"{gone}. {remedy}")
        self._require_same_settings(PREPARATION)
        log.warning("%s; preparing it again from %s", gone, self.config.source)
        place = prepared_folder(self.config)
        self._require_same_hash(place, "Set data.source=FOLDER to a copy of the old data")
        return place
