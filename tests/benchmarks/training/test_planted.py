"""What is planted comes again from its seed, has the shares that were asked for, and is what selection is for."""

from collections import Counter
from random import Random

import pytest

from litespark.benchmarks.training.planted import CLEAN, EXACT_COPY, JUNK, NEAR_COPY, plant
from litespark.data.select.config import QUALITY_RULES, SelectionConfig
from litespark.data.select.duplicates import Fingerprinter, duplicates
from litespark.data.select.select import Selector
from tests.data.select.prose import document, prose

CLEAN_TEXTS = [prose(seed, 40) for seed in range(60)]


def test_a_seed_is_a_corpus_with_every_clean_document_once_and_the_shares_asked_for() -> None:
    texts, again, other = (plant(CLEAN_TEXTS, 2.0, seed) for seed in (1, 1, 2))
    assert texts == again
    assert texts != other
    # copies come behind what they copy
    for at, text in enumerate(texts):
        assert text.kind != EXACT_COPY or text.text in {each.text for each in texts[:at]}
    assert Counter(text.text for text in texts if text.kind == CLEAN) == Counter(CLEAN_TEXTS)
    found: Counter[str] = Counter()
    for text in texts:
        found[text.kind] += len(text.text.encode())
    # the last document of a kind goes beyond its share
    shares = {CLEAN: 1.0, EXACT_COPY: 0.5, NEAR_COPY: 0.5} | dict.fromkeys(JUNK, 1 / len(JUNK))
    assert {kind: size / found[CLEAN] for kind, size in found.items()} == pytest.approx(shares, abs=0.05)


@pytest.mark.parametrize("kind", sorted(JUNK))
def test_every_kind_of_junk_is_what_a_rule_refuses(kind: str) -> None:
    selector = Selector(SelectionConfig(quality=QUALITY_RULES, languages=("en",)))
    refused = [selector.refusal(document(JUNK[kind](Random(seed)))) is not None for seed in range(8)]
    assert all(refused)


def test_copies_are_found_and_clean_documents_stay() -> None:
    config = SelectionConfig(exact_duplicates=True, near_duplicates=True)
    texts = [text for text in plant(CLEAN_TEXTS, 2.0, 1) if text.kind in (CLEAN, EXACT_COPY, NEAR_COPY)]
    fingerprinter = Fingerprinter(config)
    for ordinal, text in enumerate(texts):
        fingerprinter.add(ordinal, document(text.text))
    (answer,) = duplicates([fingerprinter.arrays().__getitem__], config)
    gone = Counter(texts[ordinal].kind for ordinal in answer["ordinals"].tolist())
    there = Counter(text.kind for text in texts)
    assert gone[EXACT_COPY] == there[EXACT_COPY]
    assert gone[NEAR_COPY] >= 0.9 * there[NEAR_COPY]
    assert gone[CLEAN] == 0
