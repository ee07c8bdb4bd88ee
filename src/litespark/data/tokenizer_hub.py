"""A tokenizer by its name on the Hugging Face hub: a few files of it, none of them code."""

from __future__ import annotations

import re
from pathlib import Path

from litespark.data.local_files import path_from

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_NEEDED = "tokenizer.json"
_OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def is_hub_name(name: str | Path) -> bool:
    """Whether this is `OWNER/NAME` or `OWNER/NAME@REVISION`, and neither a path here nor the name of a file."""
    text = str(name)
    return bool(_NAME.fullmatch(text)) and not text.endswith((".json", ".model")) and not _is_here(text)


def fetch_tokenizer(name: str) -> Path:
    """A folder on this machine with the files that describe a tokenizer, by way of the hub's own cache.

    Args:
        name: `OWNER/NAME`, or `OWNER/NAME@REVISION` for another revision than the newest. A token for what is not
            public is found as `huggingface_hub` finds it (HF_TOKEN, `hf auth login`).

    Raises:
        ValueError: no such name, no access, no tokenizer.json there, or no connection and not in the cache.
    """
    from huggingface_hub import _CACHED_NO_EXIST, errors, hf_hub_download, try_to_load_from_cache

    repository, _, named = name.partition("@")
    revision = named or None
    try:
        found = Path(hf_hub_download(repository, _NEEDED, revision=revision))
        for file in _OPTIONAL:
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
            f"OWNER/NAME with a {_NEEDED}, a connection (or the files in the hub's cache), and access where it is not "
            "public. Or name a file or folder on this machine."
        ) from error
    return found.parent


def _is_here(text: str) -> bool:
    # a folder of this name is what is meant, also where a file in it is missing
    return path_from(text).exists() or Path(text.split("/")[0]).is_dir()
