"""Duplicates: the first of each cluster stays, whatever the units, and clean text loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from litespark.data.select import duplicates as module
from litespark.data.select.config import SelectionConfig
from litespark.data.select.duplicates import DUPLICATE_RULES, Fingerprinter, duplicates
from tests.data.select.prose import document, prose
from tests.properties import given, settings, st

EXACT = SelectionConfig(exact_duplicates=True)
NEAR = SelectionConfig(near_duplicates=True)
BOTH = SelectionConfig(exact_duplicates=True, near_duplicates=True)
_EXACT, _NEAR = range(2)


def left_out(texts: Sequence[str], config: SelectionConfig, units: Sequence[int] | None = None) -> dict[int, str]:
    """The rule of every document that goes, by its place in the corpus; `units` says how many documents each holds."""
    fingerprints, places, start = [], [], 0
    for count in units or [len(texts)]:
        fingerprinter = Fingerprinter(config)
        ordinals = [3 * number + 1 for number in range(count)]  # documents that other rules refused leave gaps
        for ordinal, text in zip(ordinals, texts[start : start + count], strict=True):
            fingerprinter.add(ordinal, document(text))
        fingerprints.append(fingerprinter.arrays().__getitem__)
        places.append({ordinal: start + number for number, ordinal in enumerate(ordinals)})
        start += count
    answers = duplicates(fingerprints, config)
    for answer in answers:
        assert (answer["ordinals"].dtype, answer["rules"].dtype) == (np.int64, np.uint8)
        assert answer["ordinals"].tolist() == sorted(answer["ordinals"].tolist())
    return {
        where[ordinal]: DUPLICATE_RULES[rule]
        for answer, where in zip(answers, places, strict=True)
        for ordinal, rule in zip(answer["ordinals"].tolist(), answer["rules"].tolist(), strict=True)
    }


def altered(text: str, words: int, seed: int = 0) -> str:
    """The text with so many words replaced."""
    found = text.split(" ")
    for place in Random(seed).sample(range(len(found)), words):
        found[place] = f"changed{place}"
    return " ".join(found)


def test_the_first_of_equal_texts_stays() -> None:
    one, other, third = prose(1), prose(2), prose(3)
    texts = [one, other, one, third, other, one]
    expected = {2: "exact_duplicate", 4: "exact_duplicate", 5: "exact_duplicate"}
    assert left_out(texts, EXACT) == left_out(texts, BOTH) == expected
    assert left_out(texts, NEAR) == dict.fromkeys(expected, "near_duplicate")
    assert left_out([one, one + " ", one.upper()], EXACT) == {}


def test_near_duplicates_go_and_other_texts_stay() -> None:
    one, other = prose(1, 60), prose(2, 60)
    changed = altered(one, 3)
    texts = [one, other, changed, one.upper() + "!", altered(other, 200), prose(4), changed]
    # the copy of a near duplicate is an exact one
    assert left_out(texts, BOTH) == {2: "near_duplicate", 3: "near_duplicate", 6: "exact_duplicate"}


def test_texts_that_differ_in_their_numbers_are_not_equal() -> None:
    rows = [
        " ".join(f"station {random.random()} had {random.random()} rain" for _ in range(50))
        for random in (Random(1), Random(2))
    ]
    assert left_out(rows, NEAR) == {}


def test_a_chain_is_one_cluster_of_which_the_first_stays() -> None:
    chain = [prose(1, 100)]
    for step in range(12):
        chain.append(altered(chain[-1], 5, seed=step))
    distant = [chain[0], chain[-1]]
    assert left_out(distant, NEAR) == {}
    assert left_out(chain, NEAR) == dict.fromkeys(range(1, 13), "near_duplicate")
    # the end first: what stays is the first of the corpus, not of the chain
    assert left_out(chain[::-1], NEAR) == dict.fromkeys(range(1, 13), "near_duplicate")


def test_units_do_not_matter() -> None:
    texts = [prose(seed % 7, 60) if seed % 3 else altered(prose(seed % 5, 60), 2, seed) for seed in range(24)]
    whole = left_out(texts, BOTH)
    assert 5 < len(whole) < 24
    for units in ([1] * 24, [0, 10, 0, 14], [23, 1]):
        assert left_out(texts, BOTH, units) == whole


def test_a_clean_corpus_loses_nothing() -> None:
    assert left_out([prose(seed, 10 + seed % 30) for seed in range(150)], BOTH) == {}


def test_texts_shorter_than_a_shingle_and_without_words_equal_only_themselves() -> None:
    texts = ["one two", "one two.", "one", "...", "---", "...", "one three"]
    assert left_out(texts, NEAR) == {1: "near_duplicate", 5: "near_duplicate"}


def test_a_long_text_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def arrays() -> dict[str, list[int]]:
        fingerprinter = Fingerprinter(NEAR)
        fingerprinter.add(0, document(prose(1, 60)))
        return {name: column.tolist() for name, column in fingerprinter.arrays().items()}

    whole = arrays()
    monkeypatch.setattr(module, "_SHINGLES_AT_ONCE", 7)
    assert arrays() == whole


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 8), min_size=9, max_size=9)), max_size=40))
def test_clusters_are_those_of_a_plain_search(documents: list[tuple[int, list[int]]]) -> None:
    arrays = {"ordinals": np.arange(len(documents))}
    exact = [text for text, _ in documents]
    # equal texts have equal signatures
    bands = [documents[exact.index(text)][1] for text in exact]
    arrays |= {"exact_high": np.array(exact, dtype=np.uint64), "exact_low": np.zeros(len(exact), dtype=np.uint64)}
    for band in range(9):
        arrays[f"band_{band}"] = np.array([values[band] for values in bands], dtype=np.uint64)
    cluster = list(range(len(documents)))
    for later in range(len(documents)):
        for earlier in range(later):
            if any(map(int.__eq__, bands[later], bands[earlier])):
                old, new = cluster[later], cluster[earlier]
                cluster = [new if each == old else each for each in cluster]
    expected = {
        place: _EXACT if exact[place] in exact[:place] else _NEAR
        for place in range(len(documents))
        if cluster[place] in cluster[:place]
    }
    (answer,) = duplicates([arrays.__getitem__], BOTH)
    assert dict(zip(answer["ordinals"].tolist(), answer["rules"].tolist(), strict=True)) == expected
