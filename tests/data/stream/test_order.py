"""The order of sequences, of one domain and of several: each epoch holds each once, at exact shares of domains."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from litespark.data.stream import order as module
from litespark.data.stream.order import Interleaving, MixtureOrder, SequenceOrder, shares_of
from tests.properties import given, settings, st

SHARES = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)
SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=5)
LARGE = {"a": 5000, "b": 700, "c": 1}


def named(sizes):
    return {f"d{place}": size for place, size in enumerate(sizes)}


def by_size(sizes, **changes):
    return MixtureOrder(sizes, shares_of(sizes, None, 1), **{"seed": 1, "shuffle": True, **changes})


def one_domain(sequences, **changes):
    return SequenceOrder(sequences, **{"seed": 1, "shuffle": True, **changes})


@settings(max_examples=80, deadline=None)
@given(shares=SHARES, start=st.integers(0, 80), count=st.integers(0, 40))
def test_items_and_their_counts_at_any_position_are_those_due_first(shares, start, count):
    end = start + count
    due = [
        (Fraction(2 * number + 1, share), kind, number)
        for kind, share in enumerate(shares)
        if share
        for number in range(end)
    ]
    first = [(kind, number) for _, kind, number in sorted(due)[:end]]
    interleaving = Interleaving(shares)
    assert [tuple(item) for item in interleaving.items(start, end).tolist()] == first[start:]
    assert interleaving.items(start, end, ordered=False).tolist() == sorted(map(list, first[start:]))
    counts, of_kind = interleaving.counts(end), Counter(kind for kind, _ in first)
    assert counts == [of_kind[kind] for kind in range(len(shares))]
    assert all(
        abs(count - end * share / sum(shares)) < len(shares) + 1 for count, share in zip(counts, shares, strict=True)
    )


def test_shares_of_very_different_size_stay_exact_far_into_the_stream():
    shares = [627 * 10**9, 1, 10**6]
    position = 10**12
    counts = Interleaving(shares).counts(position)
    assert sum(counts) == position
    assert counts[1] in (1, 2)
    # in floating point the third would be off
    assert abs(counts[2] - Fraction(position * shares[2], sum(shares))) < 2


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**31), shuffle=st.booleans(), epoch=st.integers(0, 3), part=st.integers(1, 90))
def test_each_epoch_holds_every_sequence_once(sizes, seed, shuffle, epoch, part):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SEQUENCES", part)
        several = by_size(named(sizes), seed=seed, shuffle=shuffle)
        for order in (several, one_domain(sum(sizes), seed=seed, shuffle=shuffle, window_sequences=part)):
            assert order.sequences == sum(sizes)
            assert sorted(order.stream(epoch * order.sequences, order.sequences)) == list(range(sum(sizes)))


@settings(max_examples=60, deadline=None)
@given(
    sizes=SIZES,
    shares=SHARES,
    shuffle=st.booleans(),
    start=st.integers(0, 150),
    count=st.integers(0, 50),
    part=st.integers(1, 40),
)
def test_any_position_can_be_asked_for_first(sizes, shares, shuffle, start, count, part):
    shares = (shares * 5)[: len(sizes)]
    shares[0] += 1
    orders = (
        lambda: MixtureOrder(named(sizes), named(shares), seed=1, shuffle=shuffle),
        lambda: one_domain(sizes[0], shuffle=shuffle, window_sequences=part),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SEQUENCES", part)
        for order in orders:
            sequences = order().stream(start, count)
            assert sequences.dtype == np.int64
            assert sequences.tolist() == order().stream(0, 200)[start : start + count].tolist()


@pytest.mark.parametrize("shuffle", [True, False])
def test_with_shares_each_domain_is_dealt_whole_in_its_own_order_before_it_comes_again(shuffle):
    sizes = {"a": 50, "b": 300, "c": 20}
    shares = shares_of(sizes, {"a": 0.5, "b": 0.5, "c": 0}, 1)
    order = MixtureOrder(sizes, shares, seed=1, shuffle=shuffle)
    assert order.sequences == 350  # of the domains with a share
    stream = order.stream(0, 3 * 350)
    small, large = stream[stream < 50], stream[stream >= 50] - 50
    assert (len(small), len(large)) == (525, 525)
    assert stream.max() < 350
    for sequences, size, name in ((small, 50, "a"), (large, 300, "b")):
        own = SequenceOrder(size, seed=module._seed_of(name, 1), shuffle=shuffle).stream(0, len(sequences))
        assert sequences.tolist() == own.tolist()
        for begin in range(0, len(sequences) - size, size):
            assert sorted(sequences[begin : begin + size]) == list(range(size))


def test_every_block_keeps_the_shares_though_it_is_shuffled(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_SEQUENCES", 57)
    stream = by_size(LARGE).stream(0, 5701)
    for begin in range(0, 5701 - 57, 57):
        assert 6 <= ((stream[begin : begin + 57] >= 5000) & (stream[begin : begin + 57] < 5700)).sum() <= 8


def test_without_shuffling_domains_take_turns_evenly_and_in_order():
    stream = by_size({"a": 6, "b": 3}, shuffle=False).stream(0, 18)
    assert stream.tolist() == [0, 6, 1, 2, 7, 3, 4, 8, 5] * 2


@pytest.mark.parametrize(
    "make, held, pinned",
    [
        (one_domain, 1000, [563, 690, 980, 129, 959, 683, 616, 521]),
        (by_size, LARGE, [5317, 2733, 761, 2174, 5588, 2687, 3999, 2487, 5605, 1202, 4387, 3407]),
    ],
)
def test_the_order_changes_with_epoch_and_seed_and_is_the_same_on_every_machine(make, held, pinned):
    order = make(held)
    first = order.stream(0, order.sequences)
    assert first.tolist() != order.stream(order.sequences, order.sequences).tolist()
    assert first.tolist() != make(held, seed=2).stream(0, order.sequences).tolist()
    assert first[: len(pinned)].tolist() == pinned
    # neither sequences in their order, nor a domain in one place of each block
    for signal in (first, (first < 5000)[:1024] if make is by_size else first):
        assert abs(np.corrcoef(signal, np.arange(len(signal)))[0, 1]) < 0.1


def test_shares_are_the_fractions_that_were_written():
    assert shares_of(named([5, 5, 5]), {"d0": 0.1, "d1": 0.2, "d2": 0}, 1) == {"d0": 1, "d1": 2, "d2": 0}
    assert shares_of(named([5, 3, 0]), None, 1) == {"d0": 5, "d1": 3, "d2": 0}


def test_a_temperature_lifts_small_domains_by_the_same_whole_numbers_everywhere():
    shares = shares_of({"a": 1_000_000, "b": 10_000, "c": 0}, None, 2.0)
    assert shares == {"a": 1000 * 10**12, "b": 100 * 10**12, "c": 0}
    assert shares_of({"a": 7}, None, 3.0) == {"a": 1912931182772}


@pytest.mark.parametrize(
    "mixture, message",
    [
        ({"a": 1.0, "b": 1.0, "wiki": 1.0}, r"expected a share for each of .* a, b, c \(unknown or missing: c, wiki\)"),
        ({"a": 1.0, "b": 1.0}, r"got a, b; .* missing: c\).* Give 0 to leave one out"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, r"a share to c, which has no whole sequence; expected a share of 0"),
    ],
)
def test_a_mixture_that_does_not_fit_the_domains_is_refused_by_name(mixture, message):
    with pytest.raises(ValueError, match=message):
        shares_of({"a": 5, "b": 5, "c": 0}, mixture, 1)
