"""Encoding in batches: where they end changes nothing, and ids that would be misread are refused."""

from __future__ import annotations

import numpy as np
import pytest

from litespark.data.preparation import encoding
from litespark.data.preparation.encoding import DocumentEncoder, Encoded, Entry
from litespark.data.text.document import Document
from litespark.data.tokenizer import Tokenizer
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
    return Tokenizer.train(documents(20), vocabulary=400)


@pytest.mark.parametrize("characters", [1, 100, 333, 10**6])
def test_where_a_batch_ends_changes_nothing(tokenizer, monkeypatch, characters):
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", characters)
    texts = documents(40)
    expected = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    found = encoded(tokenizer, texts)
    assert [ids.tolist() for _, ids in found] == expected
    assert [entry for entry, _ in found] == entries(texts)
    assert {ids.dtype for _, ids in found} == {np.dtype(np.uint16)}


@pytest.mark.parametrize("characters", [30, 10**6])
def test_a_long_document_is_encoded_in_pieces_that_end_at_lines(tokenizer, monkeypatch, characters):
    monkeypatch.setattr(encoding, "_BATCH_CHARACTERS", characters)
    monkeypatch.setattr(encoding, "_PIECE_CHARACTERS", 40)
    texts = ["short", "a line of it\n" * 30 + "x" * 100, "short again"]
    found = encoded(tokenizer, texts)
    assert [tokenizer.decode(ids[:-1].tolist()) for _, ids in found] == texts
    assert all(np.count_nonzero(ids == tokenizer.eos_id) == 1 and ids[-1] == tokenizer.eos_id for _, ids in found)


class GivesWrongIds(Tokenizer):
    """A tokenizer that turns `wrong` in a text into an id of choice."""

    def __init__(self, tokenizer: Tokenizer, wrong: int) -> None:
        self.__dict__.update(tokenizer.__dict__)
        self.wrong = wrong

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        lists = super().encode_batch(texts)
        return [
            [*ids[:1], self.wrong, *ids[1:]] if "wrong" in text else ids for ids, text in zip(lists, texts, strict=True)
        ]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (400, r"some\.jsonl, 3: the tokenizer gave id 400; expected 0 to 399, its vocabulary"),
        (1 << 17, r"some\.jsonl, 3: the tokenizer gave id 131072"),
        (0, r"some\.jsonl, 3: its text holds what becomes id 0, which ends a document"),
    ],
)
def test_ids_that_would_be_misread_are_refused(tokenizer, wrong, message):
    with pytest.raises(ValueError, match=message):
        encoded(GivesWrongIds(tokenizer, wrong), ["right", "right", "wrong", "right"])
