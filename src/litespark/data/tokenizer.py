"""Text to ids and back, over `tokenizers`: special strings inside a text stay text, what begins a document is settled,
each id knows its length in bytes, and the tokenizer has a hash. Code that a tokenizer's folder may hold is never run.
"""

from __future__ import annotations

import hashlib
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

from litespark.data.sentencepiece_model import SUFFIX, load_sentencepiece
from litespark.data.tokenizer_files import (
    CONFIG_FILE,
    FILE,
    SPECIAL_FILE,
    kept_beside,
    named_tokenizer,
    stated_beside,
    text_of_token,
)

# once its threads ran, `tokenizers` prints a warning in each forked loader worker unless this is set
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
END_OF_TEXT = "<|endoftext|>"
_LONGEST_WORD = 256
_LONG_RUN = re.compile(rf"\S{{{_LONGEST_WORD}}}|\s{{{_LONGEST_WORD}}}")
_EOS_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
_BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "<|bos|>")


class Tokenizer:
    """A tokenizer with an EOS; ValueError where `add_bos` asks for a BOS that is not there or is the EOS.

    Attributes:
        vocab_size: one above the largest id.
        pad_id: EOS, unless the tokenizer has its own.
        begin_ids: begin each document and each prompt, as in `tokenizers` and transformers; nothing stands behind.

    Args:
        add_bos: whether BOS begins a document; None: as the tokenizer itself has it.
        kept: entries of its tokenizer_config.json that go with it, such as a chat template.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        eos_id: int,
        bos_id: int | None,
        pad_id: int | None = None,
        add_bos: bool | None = None,
        kept: dict[str, Any] | None = None,
    ) -> None:
        # a special string inside a document is text like any other
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._kept = kept or {}
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_id = eos_id
        self.bos_id = bos_id
        self.pad_id = eos_id if pad_id is None else pad_id
        self.begin_ids = self._settle_begin(add_bos)

    def _settle_begin(self, add_bos: bool | None) -> list[int]:
        with _failures_as_errors():
            before, behind = _put_around(self._tokenizer)
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
            tokens = [self._tokenizer.id_to_token(number) for number in begin]
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single=[*tokens, "$A"],
                pair=[*tokens, "$A", *tokens, "$B:1"],
                special_tokens=list(zip(tokens, begin, strict=True)),
            )
        return begin

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
        """Byte-level BPE with exactly `vocab_size` ids, of which 0 is EOS; the same texts give the same tokenizer.

        Where the texts give fewer merges, the rest are special tokens that no text yields.
        """
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
        return cls(tokenizer, eos_id=0, bos_id=None)

    @classmethod
    def load(cls, path: str | Path, *, eos_token: str | None = None, add_bos: bool | None = None) -> Tokenizer:
        """Read a tokenizer.json, a folder or name with one (Hugging Face's, or of a run), or a sentencepiece model.

        Args:
            path: the file, the folder, or `OWNER/NAME` on the Hugging Face hub where there is no such path here.
            eos_token: the EOS by its text; None: what the files beside it or the model name, else a usual name.
            add_bos: None: as the post-processor has it, or for a sentencepiece model the tokenizer_config.json.

        ValueError: it cannot be read or converted, or has no EOS or no BOS though one was asked for.
        """
        path, file = named_tokenizer(path)
        folder = (file or path).parent
        if file is not None and file.suffix == SUFFIX:
            tokenizer, *texts = load_sentencepiece(file)
            settings = stated_beside(folder, (CONFIG_FILE,))
            named = {**settings, **dict(zip(("eos_token", "bos_token"), texts, strict=True))}
            add_bos = settings.get("add_bos_token") is True if add_bos is None else add_bos
        else:
            tokenizer = _read(path, file)
            named = settings = stated_beside(folder, (SPECIAL_FILE, CONFIG_FILE))
        eos, bos, pad = (text_of_token(named.get(f"{kind}_token")) for kind in ("eos", "bos", "pad"))
        eos_id = _find_id(tokenizer, [eos_token] if eos_token else [eos, *_EOS_NAMES])
        if eos_id is None:
            raise ValueError(
                f"data.tokenizer={path}: found no token that ends a document"
                + (f": data.eos_token={eos_token!r} is not in its vocabulary" if eos_token else "")
                + ". Set data.eos_token to the text of one that the tokenizer has."
            )
        bos_id, pad_id = _find_id(tokenizer, [bos, *_BOS_NAMES]), _find_id(tokenizer, [pad])
        kept = kept_beside(folder, settings)
        return cls(tokenizer, eos_id=eos_id, bos_id=bos_id, pad_id=pad_id, add_bos=add_bos, kept=kept)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text: `begin_ids` and the text, nothing behind it."""
        return self._encoded(texts, special=True)

    def encode_parts(self, texts: list[str]) -> list[list[int]]:
        """The ids of each part of a text, without any special token."""
        return self._encoded(texts, special=False)

    def _encoded(self, texts: list[str], *, special: bool) -> list[list[int]]:
        with _failures_as_errors():
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)]

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
        pairs = [(number, *(each._tokenizer.id_to_token(number) for each in (self, other))) for number in common]
        differing = [pair for pair in pairs if None not in pair and pair[1] != pair[2]]
        if not differing:
            return None
        first, mine, theirs = differing[0]
        return f"{len(differing)} ids mean other tokens, such as {first}: {mine!r}, not {theirs!r}"

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become the replacement character."""
        with _failures_as_errors():
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self) -> list[int]:
        """By id, how many bytes it decodes to; 0 for special ids and for ids that no token has.

        Exact for byte-level tokenizers. Others count a space that they put before a text although the text has none.
        """
        byte_level = "ByteLevel" in json.dumps([self._described["pre_tokenizer"], self._described["decoder"]])
        added = self._tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special} | {self.eos_id, *self.begin_ids}
        lengths = [0] * self.vocab_size
        for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if number in special:
                continue
            if byte_level:  # each character of the byte alphabet stands for one byte
                lengths[number] = len(token.encode()) if number in added else len(token)
            elif number not in added and re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
                lengths[number] = 1
            else:
                lengths[number] = len(token.replace("▁", " ").encode())
        return lengths

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the tokenizer's description, as hexadecimal."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

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

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and a tokenizer_config.json that names the special tokens, for Hugging Face."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        ids = {"eos_token": self.eos_id, "bos_token": self.bos_id, "pad_token": self.pad_id}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            # what a Llama takes: some versions would also give the types of tokens
            "model_input_names": ["input_ids", "attention_mask"],
            **self._kept,
            **{key: self._tokenizer.id_to_token(number) for key, number in ids.items() if number is not None},
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def without_long_words(text: str) -> Iterator[str]:
    """A text in parts, cut within long words and long runs of spaces, as DNA, base64 and minified code have them."""
    start = 0
    for match in _LONG_RUN.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def _read(path: Path, file: Path | None) -> tokenizers.Tokenizer:
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
    return tokenizer


@contextmanager
def _failures_as_errors() -> Iterator[None]:
    """Make a ValueError of a failure inside `tokenizers`, which is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer fails at a text: {error}; name another with data.tokenizer") from error


def _put_around(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    if not tokenizer.num_special_tokens_to_add(is_pair=False):
        return [], []
    for text in ("a", " ", *tokenizer.get_vocab(with_added_tokens=False)):
        inner, whole = (tokenizer.encode(text, add_special_tokens=special).ids for special in (False, True))
        if inner:
            start = next(at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
            return whole[:start], whole[start + len(inner) :]
    return [], []


def _find_id(tokenizer: tokenizers.Tokenizer, names: list[str | None]) -> int | None:
    found = (tokenizer.token_to_id(name) for name in names if name)
    return next((number for number in found if number is not None), None)
