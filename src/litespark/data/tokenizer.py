"""Text to ids and back: a thin layer over `tokenizers` that adds what the data needs.

That is: special strings inside a text stay text, each id knows its length in bytes, and the tokenizer has a hash. A
tokenizer is a `tokenizer.json`, alone, in a Hugging Face folder or behind a name on its hub, or a sentencepiece model;
code that such a folder may hold is never run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from litespark.data.sentencepiece_model import SUFFIX, load_sentencepiece
from litespark.data.tokenizer_hub import fetch_tokenizer, is_hub_name

END_OF_TEXT = "<|endoftext|>"
FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_EOS_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
_BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "<|bos|>")


class Tokenizer:
    """A tokenizer with an EOS.

    Attributes:
        vocabulary: one above the largest id.
        eos_id: id that ends a document.
        bos_id: id that begins one, or None; preparation does not write it.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, eos_id: int, bos_id: int | None) -> None:
        # a special string inside a document is text like any other
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocabulary = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_id = eos_id
        self.bos_id = bos_id

    @classmethod
    def train(cls, texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
        """Byte-level BPE with exactly `vocabulary` ids, of which 0 is EOS.

        Where the texts give fewer merges, the rest are special tokens that no text yields, so that the vocabulary is
        the one that a model was configured for. The same texts in the same order give the same tokenizer.

        Raises:
            ValueError: the vocabulary has no room for the 256 bytes and EOS.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocabulary < len(alphabet) + 1:
            raise ValueError(
                f"data.vocabulary={vocabulary}; a byte-level tokenizer needs at least {len(alphabet) + 1} ids: one a "
                "byte and one that ends a document"
            )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
        )
        _keep_quiet_about_forks()
        tokenizer.train_from_iterator(texts, trainer)
        missing = vocabulary - tokenizer.get_vocab_size(with_added_tokens=True)
        tokenizer.add_special_tokens([f"<|unused-{number}|>" for number in range(missing)])
        return cls(tokenizer, eos_id=0, bos_id=None)

    @classmethod
    def load(cls, path: str | Path, *, eos_token: str | None = None) -> Tokenizer:
        """Read a tokenizer.json, a Hugging Face folder or name with one, or a sentencepiece model.

        Args:
            path: the file, the folder, or `OWNER/NAME` on the Hugging Face hub where there is no such path here.
            eos_token: the EOS by its text; None: what the folder's tokenizer_config.json or special_tokens_map.json
                or the sentencepiece model names, else one of the usual names.

        Raises:
            ValueError: nothing there, not a tokenizer, one that cannot be converted, no EOS found, or the hub cannot
                be reached.
        """
        named: dict[str, str | None]
        if is_hub_name(path):
            path = fetch_tokenizer(str(path))
        path = Path(path)
        if path.suffix == SUFFIX and path.is_file():
            tokenizer, eos, bos = load_sentencepiece(path)
            named = {"eos_token": eos, "bos_token": bos}
        else:
            file = path / FILE if path.is_dir() else path
            tokenizer = _read(path, file)
            named = {**_special_tokens_of_folder(file.parent)}
        eos_id = _find_id(tokenizer, [eos_token] if eos_token else [named.get("eos_token"), *_EOS_NAMES])
        if eos_id is None:
            raise ValueError(
                f"data.tokenizer={path}: found no token that ends a document"
                + (f": data.eos_token={eos_token!r} is not in its vocabulary" if eos_token else "")
                + ". Set data.eos_token to the text of one that the tokenizer has."
            )
        return cls(tokenizer, eos_id=eos_id, bos_id=_find_id(tokenizer, [named.get("bos_token"), *_BOS_NAMES]))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without any special token."""
        _keep_quiet_about_forks()
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become the replacement character."""
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self) -> list[int]:
        """By id, how many bytes it decodes to; 0 for special ids and for ids that no token has.

        Exact for byte-level tokenizers. For others, `▁` counts as a space and `<0xNN>` as one byte; a space that such a
        tokenizer puts before a text counts although the text has none.
        """
        return list(self._token_bytes)

    @cached_property
    def _token_bytes(self) -> list[int]:
        byte_level = "ByteLevel" in json.dumps([self._described["pre_tokenizer"], self._described["decoder"]])
        added = self._tokenizer.get_added_tokens_decoder()
        lengths = [0] * self.vocabulary
        for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if number in added:
                text = token if byte_level else token.replace("▁", " ")
                lengths[number] = 0 if added[number].special else len(text.encode())
            elif byte_level:
                lengths[number] = len(token)  # each character of the byte alphabet stands for one byte
            elif re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
                lengths[number] = 1
            else:
                lengths[number] = len(token.replace("▁", " ").encode())
        return lengths

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tokenizer's description, as hexadecimal."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @property
    def encodes_words(self) -> bool:
        """Whether a text is divided into words of bytes that are encoded one by one, as byte-level BPE does.

        Others, such as those made from sentencepiece models, encode a text as one word: any part of it may decide
        about any other.
        """
        described = self._described["pre_tokenizer"] or {"pretokenizers": []}
        steps = {step["type"]: step for step in described.get("pretokenizers", [described])}
        return "ByteLevel" in steps and (steps["ByteLevel"]["use_regex"] or "Split" in steps)

    @cached_property
    def _described(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self._text)
        return described

    @cached_property
    def _text(self) -> str:
        return self._tokenizer.to_str()

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and a tokenizer_config.json that names the special tokens, for Hugging Face."""
        (folder / FILE).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": self._tokenizer.id_to_token(self.eos_id)}
        if self.bos_id is not None:
            config["bos_token"] = self._tokenizer.id_to_token(self.bos_id)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read(path: Path, file: Path) -> tokenizers.Tokenizer:
    if not file.is_file():
        raise ValueError(
            f"data.tokenizer={path}: {file} does not exist; expected a tokenizer.json, a folder with one, a "
            "sentencepiece model (NAME.model), or OWNER/NAME on the Hugging Face hub."
        )
    try:
        return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:
        raise ValueError(
            f"data.tokenizer={path}: {file} is not a tokenizer.json: {error}. Name one that `tokenizers` wrote."
        ) from error


def _keep_quiet_about_forks() -> None:
    # once its threads ran, `tokenizers` prints a warning in each forked loader worker unless this is set
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _find_id(tokenizer: tokenizers.Tokenizer, names: list[str | None]) -> int | None:
    found = (tokenizer.token_to_id(name) for name in names if name)
    return next((number for number in found if number is not None), None)


def _special_tokens_of_folder(folder: Path) -> dict[str, str]:
    """Texts of eos_token and bos_token as a Hugging Face folder names them."""
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}. Mend it, or set data.tokenizer to a tokenizer.json.") \
                from error  # fmt: skip
        for key in ("eos_token", "bos_token"):
            value = content.get(key)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                named[key] = text
    return named
