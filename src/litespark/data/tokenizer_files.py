"""The files of a tokenizer: where a folder, a run, a checkpoint or the hub has them, and what those beside it state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from litespark.data.local_files import path_from
from litespark.data.sentencepiece_model import SUFFIX
from litespark.data.tokenizer_hub import fetch_tokenizer, is_hub_name

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_BESIDE = ("special_tokens_map.json", CONFIG_FILE, TEMPLATE_FILE)
_CHAT_TEMPLATE = "chat_template"
_KEPT = (_CHAT_TEMPLATE, "clean_up_tokenization_spaces")
_FOLDER = "tokenizer"
"""In the folder of a run."""


def tokenizer_file(path: Path) -> Path | None:
    """The file of the tokenizer that a folder holds, or that belongs to the run or checkpoint in it; None: none."""
    places = [path / FILE, path / _FOLDER / FILE, path / f"tokenizer{SUFFIX}"]
    if path.name.startswith("step-"):  # a checkpoint
        places.append(path.resolve().parent.parent / _FOLDER / FILE)
    return next((place for place in places if place.is_file()), None)


def tokenizer_files(name: str | Path) -> list[Path]:
    """The files that are read of the tokenizer that the settings name, as far as they are there."""
    path = path_from(fetch_tokenizer(str(name)) if is_hub_name(name) else name)
    file = path if path.is_file() else tokenizer_file(path)
    folder = (file or path).parent
    places = [*([] if file is None else [file]), *(folder / beside for beside in _BESIDE)]
    return [place for place in places if place.is_file()]


def stated_beside(folder: Path, files: tuple[str, ...]) -> dict[str, Any]:
    """What the files of a Hugging Face folder state about its tokenizer; of two, the later counts."""
    settings: dict[str, Any] = {}
    for path in (folder / file for file in files):
        try:
            if not path.is_file():
                continue
            content = json.loads(path.read_bytes())
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
            kept[_CHAT_TEMPLATE] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ValueError(f"{path} is not text: {error}. Mend it, or take it out of the folder.") from error
    return kept


def text_of_token(token: Any) -> str | None:
    """The text of a token as such files have it: itself, or in an object with what else is said of it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
