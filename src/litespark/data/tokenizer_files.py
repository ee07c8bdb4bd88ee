"""The files of a tokenizer: where a folder, a run, a checkpoint or the hub has them, and what those beside it state."""

import json
import re
from pathlib import Path
from typing import Any

from litespark.data.local_files import path_from

FILE = "tokenizer.json"
SUFFIX = ".model"
MODEL_FILE = f"tokenizer{SUFFIX}"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
SPECIAL_FILE = "special_tokens_map.json"
_BESIDE = (SPECIAL_FILE, CONFIG_FILE, TEMPLATE_FILE)
CHAT_TEMPLATE = "chat_template"
_KEPT = (CHAT_TEMPLATE, "clean_up_tokenization_spaces")
_FOLDER = "tokenizer"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def tokenizer_file(path: Path) -> Path | None:
    """The file of the tokenizer that a folder holds, or that belongs to the run or checkpoint in it; None: none."""
    folders = [path, path / _FOLDER]
    if path.name.startswith("step-"):  # a checkpoint
        folders.append(path.resolve().parent.parent / _FOLDER)
    places = (folder / file for folder in folders for file in (FILE, MODEL_FILE))
    return next((place for place in places if place.is_file()), None)


def named_tokenizer(name: str | Path) -> tuple[Path, Path | None]:
    """(what the settings name, fetched from the hub where it is there; the file of the tokenizer in it, or None)."""
    path = path_from(_fetched(str(name)) if is_hub_name(name) else name)
    try:
        return path, path if path.is_file() else tokenizer_file(path)
    except OSError as error:
        raise ValueError(f"data.tokenizer={path} cannot be read: {error.strerror or error}. Name another.") from error


def tokenizer_files(name: str | Path) -> list[Path]:
    """The files that are read of the tokenizer that the settings name, as far as they are there."""
    path, file = named_tokenizer(name)
    places = [file, *((file or path).parent / beside for beside in _BESIDE)]
    return [place for place in places if place is not None and place.is_file()]


def is_hub_name(name: str | Path) -> bool:
    """Whether this is `OWNER/NAME` or `OWNER/NAME@REVISION`, and neither a path here nor the name of a file."""
    text = str(name)
    if not _HUB_NAME.fullmatch(text) or text.endswith((".json", SUFFIX)):
        return False
    # a folder of this name is what is meant, also where a file in it is missing
    return not path_from(text).exists() and not Path(text.split("/")[0]).is_dir()


def _fetched(name: str) -> Path:
    """A folder with the files of a tokenizer on the hub, none of them code, by way of the hub's own cache."""
    from huggingface_hub import _CACHED_NO_EXIST, errors, hf_hub_download, try_to_load_from_cache

    repository, _, named = name.partition("@")
    revision = named or None
    try:
        path = Path(hf_hub_download(repository, FILE, revision=revision))
        for file in _BESIDE:
            if try_to_load_from_cache(repository, file, revision=revision) is _CACHED_NO_EXIST:
                continue  # this revision has none: no need of a connection
            try:
                hf_hub_download(repository, file, revision=revision)
            except errors.LocalEntryNotFoundError:
                raise  # no connection, which is a kind of the next
            except errors.EntryNotFoundError:
                pass
    # what it raises without a connection depends on where the connection ended, and on the version
    except Exception as error:
        raise ValueError(
            f"data.tokenizer={name} cannot be had from the Hugging Face hub: {type(error).__name__}: {error}. Expected "
            f"OWNER/NAME with a {FILE}, a connection (or the files in the hub's cache), and access where it is not "
            "public. Or name a file or folder on this machine."
        ) from error
    return path.parent


def stated_beside(folder: Path, files: tuple[str, ...]) -> dict[str, Any]:
    """What the files of a Hugging Face folder state about its tokenizer; of two, the later counts."""
    settings: dict[str, Any] = {}
    for path in (folder / file for file in files):
        try:
            content = json.loads(path.read_bytes()) if path.is_file() else {}
            if not isinstance(content, dict):
                raise ValueError(f"got a {type(content).__name__}, expected an object")
        except (ValueError, OSError, RecursionError) as error:
            raise ValueError(
                f"{path} is not JSON of a tokenizer: {error}. Mend it, or set data.tokenizer to a tokenizer.json."
            ) from error
        settings |= {key: value for key, value in content.items() if value is not None}
    return settings


def kept_beside(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What an export takes over from a foreign folder; newer ones have the template in a file of its own."""
    kept = {key: settings[key] for key in _KEPT if key in settings}
    path = folder / TEMPLATE_FILE
    if path.is_file():
        try:
            kept[CHAT_TEMPLATE] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} is not text: {error}. Mend it, or take it out of the folder.") from error
    return kept


def text_of_token(token: Any) -> str | None:
    """The text of a token as such files have it: itself, or in an object with what else is said of it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
