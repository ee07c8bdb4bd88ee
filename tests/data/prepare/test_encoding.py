"""Encoding in batches: where they end changes nothing, and ids that would be misread are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers

from litespark.data.prepare import encoding
from litespark.data.prepare.encoding import DocumentEncoder, Encoded, Entry
from litespark.data.text.document import Document
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizers_model import TokenizersModel
from tests.data.corpus import documents


def entries(texts: list[str]) -> list[Entry]:
    return [
        Entry("train", Document(text, "text", "some.jsonl", place), len(text.encode()))
        for place, text in enumerate(texts, start=1)
    ]


def encoded(tokenizer: Tokenizer, texts: list[str]) -> list[Encoded]:
    found: list[Encoded] = []
    encoder = DocumentEncoder(tokenizer, found.extend)
    for entry in entries(texts):
        encoder.add(entry)
    encoder.close()
    return found


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(documents(20), vocab_size=400)


NEWLINES = ("\n", "\n\n", "\r\n")
LONG = "".join(
    f"{line}\n{'    ' * (line % 3)}word, {line}{' ' * (line % 4)}end{NEWLINES[line % 3]}" for line in range(60)
)


LLAMA_3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BEHIND_LINE_BREAKS = r"\s*\w+|[^\w]+"


def divided(words: str | None) -> Tokenizer:
    """Byte-level BPE over words that a regular expression divides a text into; None: over the text as one word."""
    made = tokenizers.Tokenizer(models.BPE())
    of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*split, of_bytes])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([LONG], trainer)
    return Tokenizer(TokenizersModel(made), eos_id=0, bos_id=None)


def begins_with_a_space() -> Tokenizer:
    """Byte-level BPE that puts a space before a text that has none."""
    described = json.loads(Tokenizer.train([LONG], vocab_size=400).model.description().decode())
    described["pre_tokenizer"]["add_prefix_space"] = True
    made = tokenizers.Tokenizer.from_str(json.dumps(described))
    return Tokenizer(TokenizersModel(made), eos_id=0, bos_id=None)


TOKENIZERS = {
    "bytes": lambda: Tokenizer.train([LONG], vocab_size=400),
    "bytes, words of Llama 3": lambda: divided(LLAMA_3),
    "bytes, line breaks before words": lambda: divided(BEHIND_LINE_BREAKS),
    "bytes, behind a space": begins_with_a_space,
    "bytes, one word": lambda: divided(None),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_where_a_batch_ends_changes_nothing_nor_where_a_long_document_is_divided(monkeypatch, name):
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", 30)
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 40)
    tokenizer = TOKENIZERS[name]()
    # what is far away may decide about one word, so that looking at the surroundings verifies nothing
    assert tokenizer.model.encodes_words != ("one word" in name)
    texts = ["short", LONG, "x" * 100, "short again\n"]
    expected = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    found = encoded(tokenizer, texts)
    assert [ids.tolist() for _, ids in found] == expected
    assert [entry for entry, _ in found] == entries(texts)
    assert {ids.dtype for _, ids in found} == {np.dtype(np.uint16)}


def test_a_long_document_is_encoded_in_pieces_where_words_are(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 40)
    pieces = encoding._pieces(LONG, tokenizer)
    assert "".join(pieces) == LONG
    assert max(map(len, pieces)) < 100
    assert encoding._pieces("x" * 300, tokenizer) == ["x" * 300], "it has no place to cut it at"


@pytest.mark.parametrize(
    "wrong, message",
    [
        (400, r"some\.jsonl, 3: the tokenizer gave id 400; expected 0 to 399, its vocabulary"),
        (1 << 17, r"some\.jsonl, 3: the tokenizer gave id 131072"),
        (0, r"some\.jsonl, 3: its text holds what becomes id 0, which ends a document"),
    ],
)
def test_ids_that_would_be_misread_are_refused(tokenizer, monkeypatch, wrong, message):
    ids = {"right": [1], "wrong": [1, wrong]}
    monkeypatch.setattr(Tokenizer, "encode_parts", lambda _, texts: [ids[text] for text in texts])
    with pytest.raises(ValueError, match=message):
        encoded(tokenizer, ["right", "right", "wrong", "right"])
