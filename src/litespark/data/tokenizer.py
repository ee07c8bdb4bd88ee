"""Text to ids and back, by `tokenizers` or by `sentencepiece`: the ids at the beginning and end of a
document, the length of each id in bytes, and a hash. Code that a tokenizer's folder may hold is never run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from litespark.data.sentencepiece_model import SentencePieceModel
from litespark.data.tokenizer_files import (
    CHAT_TEMPLATE,
    CONFIG_FILE,
    SPECIAL_FILE,
    SUFFIX,
    kept_beside,
    named_tokenizer,
    stated_beside,
    text_of_token,
)
from litespark.data.tokenizers_model import END_OF_TEXT, TokenizersModel

_EOS_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
_BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "<|bos|>")


class Tokenizer:
    """A tokenizer with an EOS; ValueError where `add_bos` asks for a BOS that is not there or is the EOS.

    Attributes:
        vocab_size: one above the largest id.
        pad_id: EOS, unless the tokenizer has its own.
        begin_ids: begin each document and each prompt, as in `tokenizers` and transformers; nothing stands behind.

    Args:
        model: what makes the ids.
        add_bos: whether BOS begins a document; None: as the tokenizer itself has it.
        kept: entries of its tokenizer_config.json that go with it, such as a chat template.
    """

    def __init__(
        self,
        model: TokenizersModel | SentencePieceModel,
        *,
        eos_id: int,
        bos_id: int | None,
        pad_id: int | None = None,
        add_bos: bool | None = None,
        kept: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self._kept = kept or {}
        self.vocab_size = model.vocab_size
        self.eos_id = eos_id
        self.bos_id = bos_id
        self.pad_id = eos_id if pad_id is None else pad_id
        self.begin_ids = self._settle_begin(add_bos)

    def _settle_begin(self, add_bos: bool | None) -> list[int]:
        before, behind = self.model.around()
        begin = [] if add_bos is False else before
        if add_bos:
            begin = before if self.bos_id is None or self.bos_id in before else [self.bos_id]
            if not begin or self.eos_id in begin:
                raise ValueError(
                    "data.add_bos=true, but the tokenizer has no token that begins a document and ends none; set "
                    "data.add_bos=auto, or name a tokenizer whose tokenizer_config.json has a bos_token"
                )
        if self.eos_id in begin:
            begin = []
        if behind or begin != before:
            self.model.begin_with(begin)
        return begin

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
        """Byte-level BPE with exactly `vocab_size` ids, of which 0 is EOS; the same texts give the same tokenizer.

        Where the texts give fewer merges, the rest are special tokens that no text yields.
        """
        return cls(TokenizersModel.train(texts, vocab_size), eos_id=0, bos_id=None)

    @classmethod
    def load(cls, path: str | Path, *, eos_token: str | None = None, add_bos: bool | None = None) -> Tokenizer:
        """Read a tokenizer.json, a folder or name with one (Hugging Face's, or of a run), or a sentencepiece model.

        Args:
            path: the file, the folder, or `OWNER/NAME` on the Hugging Face hub where there is no such path here.
            eos_token: the EOS by its text; None: what the files beside it or the model name, else a usual name.
            add_bos: None: as the post-processor has it, or for a sentencepiece model the tokenizer_config.json.

        ValueError: it cannot be read, or has no EOS or no BOS though one was asked for.
        """
        path, file = named_tokenizer(path)
        folder = (file or path).parent
        named = settings = stated_beside(folder, (SPECIAL_FILE, CONFIG_FILE))
        model: TokenizersModel | SentencePieceModel
        if file is not None and file.suffix == SUFFIX:
            model = SentencePieceModel(file)
            named = model.stated | settings
            add_bos = settings.get("add_bos_token") is True if add_bos is None else add_bos
        else:
            model = TokenizersModel.read(path, file)
        eos, bos, pad = (text_of_token(named.get(f"{kind}_token")) for kind in ("eos", "bos", "pad"))
        eos_id = _first_id(model, [eos_token] if eos_token else [eos, *_EOS_NAMES])
        if eos_id is None:
            raise ValueError(
                f"data.tokenizer={path}: found no token that ends a document"
                + (f": data.eos_token={eos_token!r} is not in its vocabulary" if eos_token else "")
                + ". Set data.eos_token to the text of one that the tokenizer has."
            )
        bos_id, pad_id = _first_id(model, [bos, *_BOS_NAMES]), _first_id(model, [pad])
        kept = kept_beside(folder, settings)
        return cls(model, eos_id=eos_id, bos_id=bos_id, pad_id=pad_id, add_bos=add_bos, kept=kept)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of its files, the one named `default` of several; None: it has none."""
        stated = self._kept.get(CHAT_TEMPLATE)
        if isinstance(stated, list):
            stated = {entry.get("name"): entry.get("template") for entry in stated if isinstance(entry, dict)}
        template = stated.get("default") if isinstance(stated, dict) else stated
        return template if isinstance(template, str) else None

    @chat_template.setter
    def chat_template(self, template: str) -> None:
        self._kept = {**self._kept, CHAT_TEMPLATE: template}

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text: `begin_ids` and the text, nothing behind it."""
        return [[*self.begin_ids, *ids] for ids in self.encode_parts(texts)]

    def encode_parts(self, texts: list[str]) -> list[list[int]]:
        """The ids of each part of a text, without any special token."""
        return self.model.encode(texts)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text that is to be continued, at least EOS; ValueError: it holds what is no character."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the prompt {text!r} is not UTF-8 at character {error.start}: {error.reason}; expected text"
            ) from error
        return self.encode_batch([text])[0] or [self.eos_id]

    def difference(self, other: Tokenizer) -> str | None:
        """An id that means one token here and another there; None: there is none, though one may have more ids."""
        common = range(min(self.vocab_size, other.vocab_size))
        pairs = [(number, self.model.token(number), other.model.token(number)) for number in common]
        differing = [pair for pair in pairs if None not in pair and pair[1] != pair[2]]
        if not differing:
            return None
        first, mine, theirs = differing[0]
        return f"{len(differing)} ids mean other tokens, such as {first}: {mine!r}, not {theirs!r}"

    def decode(self, ids: list[int]) -> str:
        """The text of ids, without special tokens; bytes that are not UTF-8 become the replacement character."""
        return self.model.decode(ids)

    def token_bytes(self) -> list[int]:
        """By id, how many bytes it decodes to; 0 for special ids and for ids that no token has.

        Exact for byte-level tokenizers. Others count a space that they put before a text although the text has none,
        and one that normalises texts counts what it made of them.
        """
        special = {self.eos_id, *self.begin_ids}
        return [0 if number in special else length for number, length in enumerate(self.model.token_bytes())]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tokenizer's description, as hexadecimal."""
        return hashlib.sha256(self.model.description()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the tokenizer's file, and a tokenizer_config.json that names the special tokens, for Hugging Face."""
        folder.mkdir(parents=True, exist_ok=True)
        ids = {"eos_token": self.eos_id, "bos_token": self.bos_id, "pad_token": self.pad_id}
        config = {
            # transformers 5 follows all settings of a sentencepiece model by this name alone, not by LlamaTokenizer
            "tokenizer_class": "PreTrainedTokenizerFast",
            # what a Llama takes: some versions would also give the types of tokens
            "model_input_names": ["input_ids", "attention_mask"],
            **self.model.save(folder),
            **self._kept,
            **{key: self.model.token(number) for key, number in ids.items() if number is not None},
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _first_id(model: TokenizersModel | SentencePieceModel, names: list[str | None]) -> int | None:
    ids = (model.id_of(name) for name in names if name)
    return next((number for number in ids if number is not None), None)
