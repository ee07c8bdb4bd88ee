"""Reading folders with several domains: every token once an epoch on any ranks, workers and resumes; exact shares."""

from __future__ import annotations

import itertools
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from litespark.data.loss_mask import IGNORE_INDEX
from litespark.data.stream.loader import StreamPositions
from tests.data.fitting import fit
from tests.data.several_domains import EOS, ids_of, write_domains
from tests.data.streams import S, global_stream, module, on_rank
from tests.properties import HealthCheck, given, settings, st

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{said}.*")
    for said in ("This DataLoader will create", "does not have many workers", "srun", "validation_step")
]

# sequences of S: 26, 11 and 4, over chunks of 100 ids
TRAIN = {"web": ids_of(430, 1), "code": ids_of(189, 1001), "wiki": ids_of(65, 2001)}
VALIDATION = {"web": ids_of(181, 3001), "code": ids_of(100, 4001), "wiki": ids_of(40, 5001)}
SEQUENCES = {"code": 11, "web": 26, "wiki": 4}
COUNT = sum(SEQUENCES.values())


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return write_domains(tmp_path_factory.mktemp("several") / "data", {"train": TRAIN, "validation": VALIDATION})


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    train, validation = {"text": TRAIN["web"]}, {"text": VALIDATION["web"]}
    return write_domains(tmp_path_factory.mktemp("one") / "data", {"train": train, "validation": validation})


def sequences_of(domains):
    """The inputs of each sequence of these domains."""
    return [
        tuple(ids[number * S : number * S + S].tolist())
        for ids in domains.values()
        for number in range((len(ids) - 1) // S)
    ]


def global_sequences(monkeypatch, folder, world, count, **changes):
    """The sequences of the first `count` global micro-batches."""
    return [tuple(sequence) for sequence in global_stream(monkeypatch, folder, world, count, **changes).tolist()]


@pytest.mark.parametrize(
    ("domains", "world", "workers", "shuffle"),
    [("several", 2, 3, False), ("several", 4, 0, True), ("one", 1, 2, True), ("one", 4, 0, False)],
)
def test_each_token_is_served_once_an_epoch(monkeypatch, request, domains, world, workers, shuffle):
    folder = request.getfixturevalue(domains)
    corpus = TRAIN if domains == "several" else {"text": TRAIN["web"]}
    expected = Counter(sequences_of(corpus))
    count = expected.total()
    # two epochs and a bit, so that batches run over an epoch's end
    batches = 2 * count // (2 * world) + 1
    served = global_sequences(monkeypatch, folder, world, batches, workers=workers, shuffle=shuffle)
    assert Counter(served[:count]) == Counter(served[count : 2 * count]) == expected


@pytest.mark.parametrize("step", [-2, 2])
def test_sequences_that_are_served_twice_or_left_out_would_be_found(monkeypatch, several, step):
    whole = StreamPositions.__iter__
    monkeypatch.setattr(
        StreamPositions, "__iter__", lambda self: (place + step * (place >= 20) for place in whole(self))
    )
    served = global_sequences(monkeypatch, several, 1, COUNT, workers=0)
    assert Counter(served[:COUNT]) != Counter(sequences_of(TRAIN))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    length=st.integers(1, 20),
    chunk=st.integers(3, 60),
    batch=st.integers(1, 5),
    seed=st.integers(0, 99),
    shuffle=st.booleans(),
)
def test_the_tokens_of_an_epoch_are_those_of_the_corpus(tmp_path_factory, sizes, length, chunk, batch, seed, shuffle):
    sizes[0] += length + 1  # one domain at least holds a sequence
    train = {f"d{place}": ids_of(size, 1 + 1000 * place) for place, size in enumerate(sizes)}
    folder = write_domains(
        tmp_path_factory.mktemp("corpus") / "data", {"train": train, "validation": train}, chunk_tokens=chunk
    )
    data = module(folder, seq_len=length, micro_batch_size=batch, seed=seed, shuffle=shuffle)
    taken = itertools.chain.from_iterable(
        zip(made.tokens.tolist(), made.labels.tolist(), strict=True) for made in data.train_dataloader()
    )
    inputs, labels = Counter(), Counter()
    for sequence, following in islice(taken, data.train_sequences):
        inputs.update(sequence)
        labels.update(following)
    reached = {name: ids[: (len(ids) - 1) // length * length + 1] for name, ids in train.items() if len(ids) > length}
    assert inputs == sum((Counter(ids[:-1].tolist()) for ids in reached.values()), Counter())
    expected = Counter()
    for ids in reached.values():
        expected.update(np.where(ids[:-1] == EOS, IGNORE_INDEX, ids[1:]).tolist())
    assert labels == expected


MIXTURE = {"code": 0.5, "web": 0.25, "wiki": 0.25}


@pytest.mark.parametrize(
    ("changes", "world", "workers", "batch"),
    [
        ({}, 2, 2, 3),
        ({"mixture": MIXTURE}, 4, 1, 1),
        ({"mixture_temperature": 2.0}, 1, 0, 2),
        ({"shuffle": False}, 2, 0, 3),
    ],
)
def test_a_resume_goes_on_in_the_middle_of_an_epoch_whatever_the_ranks(
    monkeypatch, several, world, workers, batch, changes
):
    undisturbed = global_sequences(monkeypatch, several, 1, 60, **changes)
    resumed = global_sequences(
        monkeypatch, several, world, 48 // (world * batch),
        start=58, workers=workers, micro_batch_size=batch, **changes,
    )  # fmt: skip
    assert resumed == undisturbed[58:106]


@pytest.mark.filterwarnings("error:.*resumable.*")
@pytest.mark.parametrize(("changes", "accumulate"), [({}, 3), ({"mixture": MIXTURE, "workers": 2}, 1)])
def test_lightning_resumes_at_the_next_sequence_and_past_the_end_of_the_epoch(several, tmp_path, changes, accumulate):
    _, undisturbed = fit(module(several, **changes), 50, accumulate)
    trainer, first = fit(module(several, **changes), 11, accumulate)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    # over two ends of an epoch: sequences are served twice there by LitData's own loader
    trainer, second = fit(module(several, **changes), 47, accumulate, checkpoint=tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    data = module(several, **changes)
    _, third = fit(data, 50, accumulate, checkpoint=tmp_path / "b.ckpt")
    assert torch.equal(torch.cat([first, second, third]), undisturbed)
    assert data.consumed_sequences == 50 * 2 * accumulate


def test_a_loader_that_lightning_iterates_anew_goes_on(one):
    _, undisturbed = fit(module(one), 6)
    _, limited = fit(module(one), 6, limit_train_batches=2)
    assert torch.equal(limited, undisturbed)


def domain_of(sequence):
    """By the first id that is not EOS."""
    first = next(token for token in sequence if token != EOS)
    return {0: "web", 1: "code", 2: "wiki"}[first // 1000]


def test_the_shares_of_a_mixture_are_those_of_the_stream(monkeypatch, several):
    sequences = global_sequences(monkeypatch, several, 1, 2 * COUNT, mixture=MIXTURE)
    found = Counter(map(domain_of, sequences))
    assert found == {"code": 2 * COUNT, "web": COUNT, "wiki": COUNT}
    # four epochs of the two domains
    without = global_sequences(monkeypatch, several, 1, 74, mixture={"code": 1, "web": 1, "wiki": 0})
    assert Counter(map(domain_of, without)) == {"code": 74, "web": 74}
    assert module(several, mixture={"code": 1, "web": 1, "wiki": 0}).train_sequences == 37
    heated = Counter(map(domain_of, global_sequences(monkeypatch, several, 1, 500, mixture_temperature=2.0)))
    roots = {name: count**0.5 for name, count in SEQUENCES.items()}
    for name, root in roots.items():
        assert heated[name] == pytest.approx(1000 * root / sum(roots.values()), abs=2)


def test_a_limit_on_sequences_takes_the_first_of_each_domain_in_proportion(monkeypatch, several):
    data = module(several, training_sequences=10)
    assert data.train_sequences == 10
    sequences = global_sequences(monkeypatch, several, 1, 10, training_sequences=10)
    assert Counter(sequences[:10]) == Counter(sequences[10:])
    first = {name: sequences_of({name: TRAIN[name]}) for name in TRAIN}
    assert set(sequences) == {*first["web"][:6], *first["code"][:3], *first["wiki"][:1]}
    # a domain without a share takes no part of the limit
    mixture = {"code": 1, "web": 1, "wiki": 0}
    sequences = global_sequences(monkeypatch, several, 1, 40, training_sequences=36, mixture=mixture)
    assert set(sequences) == {*first["web"][:25], *first["code"]}
    with pytest.raises(ValueError, match=r"to wiki, which has no whole sequence.*raise data\.training_sequences"):
        module(several, training_sequences=2, mixture=MIXTURE)


def test_everything_that_decides_the_order_is_compared_on_a_resume(several):
    data = module(several)
    names = ["manifest_hash", "seq_len", "train_sequences", "seed", "shuffle", "mixture", "mixture_temperature"]
    assert [*data.state_dict()] == ["sequences", *names]
    for name in names:
        with pytest.raises(ValueError, match=f"data position belongs to {name}=another, this run has {name}="):
            data.load_state_dict({**data.state_dict(), name: "another"})


@pytest.mark.parametrize(("world", "limit"), [(1, 9), (2, None), (4, 1), (4, None)])
def test_validation_batches_hold_one_domain_and_every_rank_has_as_many(monkeypatch, several, world, limit):
    seen, sequences = [], []
    for rank in range(world):
        on_rank(monkeypatch, rank, world)
        batches = list(module(several, validation_sequences=limit).val_dataloader())
        sequences.append([batch.domain for batch in batches])
        for batch in batches:
            assert batch.tokens.shape == (2, S)
            real = batch.token_count // S
            assert (batch.labels[real:] == IGNORE_INDEX).all()
            for sequence in batch.tokens.tolist():  # padding is of the domain too
                assert {0: "web", 1: "code", 2: "wiki"}[max(sequence) // 1000 - 3] == batch.domain
            seen += map(tuple, batch.tokens[:real].tolist())
    assert all(sequence == sequences[0] for sequence in sequences)
    if limit is None:
        assert sorted(seen) == sorted(sequences_of(VALIDATION))
    else:
        sequences = {name: sequences_of({name: VALIDATION[name]}) for name in VALIDATION}
        spread = {1: {"web": [0]}, 9: {"web": [0, 2, 4, 6, 8], "code": [0, 2, 4], "wiki": [0]}}[limit]
        assert sorted(seen) == sorted(sequences[name][place] for name, places in spread.items() for place in places)


def test_a_domain_shorter_than_a_sequence_is_left_out_with_a_warning(tmp_path, caplog):
    domains = {"web": ids_of(50, 1), "tiny": ids_of(S, 1001), "wiki": ids_of(S + 1, 2001)}
    folder = write_domains(tmp_path / "data", {"train": domains, "validation": domains})
    data = module(folder)
    assert "domain tiny holds 16 tokens, less than the 17 of one sequence; it is left out" in caplog.text
    assert data.train_sequences == 4
    epoch = next(iter(module(folder, micro_batch_size=4).train_dataloader())).tokens.tolist()
    assert sorted(map(tuple, epoch)) == sorted(sequences_of({"web": domains["web"], "wiki": domains["wiki"]}))
    with pytest.raises(ValueError, match=r"a share to tiny, which has no whole sequence"):
        module(folder, mixture={"web": 1, "tiny": 1, "wiki": 1})
    tiny = {"tiny": domains["tiny"]}
    short = write_domains(tmp_path / "short", {"train": tiny, "validation": tiny})
    with pytest.raises(ValueError, match=r"tiny holds 16 tokens; data\.seq_len=16 needs at least 17"):
        module(short)


def test_a_loader_draws_nothing_from_the_generator_of_the_run(several):
    before = torch.get_rng_state()
    next(iter(module(several).train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)
