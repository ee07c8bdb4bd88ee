"""A tokenizer.json behind a `Tokenizer`: `tokenizers` makes ids of texts and texts of ids, and is trained here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from litespark.data.tokenizer_files import FILE

# once its threads ran, `tokenizers` prints a warning in each forked loader worker unless this is set
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
END_OF_TEXT = "<|endoftext|>"
_LONGEST_WORD = 256
_LONG_RUN = re.compile(rf"\S{{{_LONGEST_WORD}}}|\s{{{_LONGEST_WORD}}}")


class TokenizersModel:
    """A tokenizer of `tokenizers`, to which a special string inside a text is text like any other."""

    file = FILE

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def read(cls, path: Path, file: Path | None) -> TokenizersModel:
        """The tokenizer.json that was found for the `path` of the settings; ValueError: none was, or it is damaged."""
        if file is None:
            raise ValueError(
                f"data.tokenizer={path}: {path / FILE if path.is_dir() else path} does not exist; expected a "
                "tokenizer.json, a folder with one, a run, a sentencepiece model (NAME.model), or OWNER/NAME on the "
                "Hugging Face hub."
            )
        try:
            with _failures_as_errors():
                tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
                # what makes its code fail is mostly found here and not later
                tokenizer.encode("Some text, 1 é\n", add_special_tokens=True)
            if not tokenizer.get_vocab_size(with_added_tokens=True):
                raise ValueError("it has no tokens")
        except Exception as error:
            raise ValueError(
                f"data.tokenizer={path}: {file} is not a tokenizer.json: {error}. Name one that `tokenizers` wrote."
            ) from error
        return cls(tokenizer)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> TokenizersModel:
        """Byte-level BPE with exactly `vocab_size` ids, of which 0 ends a text."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocab_size < len(alphabet) + 1:
            raise ValueError(
                f"data.vocab_size={vocab_size}; a byte-level tokenizer needs at least {len(alphabet) + 1} ids: one a "
                "byte and one that ends a document"
            )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(chain.from_iterable(map(without_long_words, texts)), trainer)
        missing = vocab_size - tokenizer.get_vocab_size(with_added_tokens=True)
        tokenizer.add_special_tokens([f"<|unused-{number}|>" for number in range(missing)])
        return cls(tokenizer)

    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the post-processor puts before and behind a text."""
        if not self._tokenizer.num_special_tokens_to_add(is_pair=False):
            return [], []
        with _failures_as_errors():
            for text in ("a", " ", *self._tokenizer.get_vocab(with_added_tokens=False)):
                inner = self._tokenizer.encode(text, add_special_tokens=False).ids
                whole = self._tokenizer.encode(text, add_special_tokens=True).ids
                if inner:
                    start = next(at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
                    return whole[:start], whole[start + len(inner) :]
        return [], []

    def begin_with(self, ids: list[int]) -> None:
        """Put these ids before a text, and nothing behind it."""
        tokens = [self._tokenizer.id_to_token(number) for number in ids]
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=[*tokens, "$A"],
            pair=[*tokens, "$A", *tokens, "$B:1"],
            special_tokens=list(zip(tokens, ids, strict=True)),
        )

    def encode(self, texts: list[str]) -> list[list[int]]:
        with _failures_as_errors():
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_rendered(self, text: str) -> tokenizers.Encoding:
        """A text whose special strings are special tokens, as a chat template writes them; nothing is put around it."""
        with _failures_as_errors():
            self._tokenizer.encode_special_tokens = False
            try:
                return self._tokenizer.encode(text, add_special_tokens=False)
            finally:
                self._tokenizer.encode_special_tokens = True

    def special_tokens(self) -> dict[int, str]:
        """The text of each special token by its id."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {number: token.content for number, token in added.items() if token.special}

    def decode(self, ids: list[int]) -> str:
        with _failures_as_errors():
            return self._tokenizer.decode(ids, skip_special_tokens=True)

    def token(self, number: int) -> str | None:
        return self._tokenizer.id_to_token(number)

    def id_of(self, text: str) -> int | None:
        return self._tokenizer.token_to_id(text)

    def token_bytes(self) -> list[int]:
        """By id, how many bytes it decodes to; 0 for special ids and for ids that no token has."""
        byte_level = "ByteLevel" in json.dumps([self._described["pre_tokenizer"], self._described["decoder"]])
        added = self._tokenizer.get_added_tokens_decoder()
        lengths = [0] * self.vocab_size
        for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if number in added and added[number].special:
                continue
            if byte_level:  # each character of the byte alphabet stands for one byte
                lengths[number] = len(token.encode()) if number in added else len(token)
            elif number not in added and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
                lengths[number] = 1
            else:
                lengths[number] = len(token.replace("▁", " ").encode())
        return lengths

    @property
    def encodes_words(self) -> bool:
        """Whether a text is divided into words that are encoded one by one; else any part may decide about any."""
        described = self._described["pre_tokenizer"] or {"pretokenizers": []}
        steps = {step["type"]: step for step in described.get("pretokenizers", [described])}
        return "ByteLevel" in steps and (steps["ByteLevel"]["use_regex"] or "Split" in steps)

    @cached_property
    def _described(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return described

    def description(self) -> bytes:
        return self._tokenizer.to_str().encode()

    def save(self, folder: Path) -> dict[str, bool]:
        """Write its file; returns what the tokenizer_config.json beside it has to state for it."""
        (folder / FILE).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        return {}


def without_long_words(text: str) -> Iterator[str]:
    """A text in parts, cut within long words and long runs of spaces, as DNA, base64 and minified code have them."""
    start = 0
    for match in _LONG_RUN.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


@contextmanager
def _failures_as_errors() -> Iterator[None]:
    """Make a ValueError of a failure inside `tokenizers`, which is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer fails at a text: {error}; name another with data.tokenizer") from error
