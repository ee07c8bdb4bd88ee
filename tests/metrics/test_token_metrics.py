"""TokenMetrics equals a direct computation over all tokens, however they are cut into batches and ranks."""

import json
import math

import pytest
import torch

from litespark.metrics.validation import IGNORE_INDEX, TokenMetrics
from tests.properties import given, settings, st

VOCABULARY = 13
TOKEN_BYTES = torch.arange(VOCABULARY) % 5  # some tokens stand for no bytes


def make_batch(sequences, length, seed, ignored=0.3):
    generator = torch.Generator().manual_seed(seed)
    nats = torch.rand(sequences, length, generator=generator) * 4
    correct = torch.rand(sequences, length, generator=generator) < 0.4
    labels = torch.randint(0, VOCABULARY, (sequences, length), generator=generator)
    labels[torch.rand(sequences, length, generator=generator) < ignored] = IGNORE_INDEX
    return nats, correct, labels


def direct(batches):
    nats = hits = tokens = size = 0.0
    for batch_nats, correct, labels in batches:
        for value, hit, label in zip(batch_nats.flatten(), correct.flatten(), labels.flatten(), strict=True):
            if label != IGNORE_INDEX:
                nats += float(value)
                hits += bool(hit)
                tokens += 1
                size += int(TOKEN_BYTES[label])
    return {
        "loss": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
        "token_accuracy": hits / tokens,
    }


def as_floats(values):
    return {name: float(value) for name, value in values.items()}


def by_domain(ratios, batches):
    metrics = TokenMetrics(TOKEN_BYTES, ratios)
    for domain, batch in batches:
        metrics.update(*batch, domain)
    return as_floats(metrics.compute())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(4, 9)), min_size=1, max_size=4), st.integers(0, 1000))
def test_uneven_batches_weigh_by_their_tokens(shapes, seed):
    batches = [make_batch(*shape, seed + index) for index, shape in enumerate(shapes)]
    batches.append((torch.full((1, 2), 1.5), torch.tensor([[True, False]]), torch.tensor([[1, 4]])))
    metrics = TokenMetrics(TOKEN_BYTES)
    for batch in batches:
        metrics.update(*batch)
    assert as_floats(metrics.compute()) == pytest.approx(direct(batches), rel=1e-9)


def test_a_batch_without_labels_changes_nothing_and_what_has_no_divisor_is_nan():
    metrics = TokenMetrics(TOKEN_BYTES)
    empty, ones = torch.full((3, 6), IGNORE_INDEX), torch.ones(3, 6, dtype=torch.bool)
    metrics.update(torch.full((3, 6), math.nan), ones, empty)
    assert all(math.isnan(value) for value in as_floats(metrics.compute()).values())
    metrics.update(torch.ones(1, 2), ones[:1, :2], torch.tensor([[0, 5]]))
    values = as_floats(metrics.compute())
    assert math.isnan(values["bits_per_byte"])  # these tokens have no bytes
    assert values["loss"] == 1.0


def test_sums_do_not_lose_small_losses_among_many_tokens():
    metrics = TokenMetrics(TOKEN_BYTES)
    labels = torch.ones(1, 2**12, dtype=torch.int64)
    correct = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(40):
        metrics.update(torch.full((1, 2**12), 1e4), correct, labels)
    metrics.update(torch.full((1, 1), 1e-3), correct[:, :1], labels[:, :1])
    # in float32 the last summand would vanish
    assert float(metrics.nats) - 40 * 2**12 * 1e4 == pytest.approx(1e-3, rel=1e-3)


def add_on_one_rank(rank, world, folder, batches, ratios):
    torch.set_num_threads(1)  # threads of the parent do not survive the fork
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    (folder / f"rank-{rank}.json").write_text(json.dumps(by_domain(ratios, batches[rank::world])))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ratios", [None, {"web": 0.9, "code": 1.0}], ids=["one", "domains"])
def test_two_processes_with_uneven_shares_agree_with_one(tmp_path, ratios):
    # rank 0 gets two batches, rank 1 one of another size: a mean of means would be off
    batches = [make_batch(3, 7, seed=1), make_batch(1, 4, seed=2), make_batch(2, 9, seed=3, ignored=0.8)]
    domains = ("code", "web", "code") if ratios else (None,) * 3
    named = list(zip(domains, batches, strict=True))
    # forked, as data loaders are: spawned processes would import everything again, which takes half a minute
    torch.multiprocessing.start_processes(
        add_on_one_rank, args=(2, tmp_path, named, ratios), nprocs=2, start_method="fork"
    )
    for rank in range(2):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert found == pytest.approx(by_domain(ratios, named), rel=1e-9)


def test_a_device_without_double_precision_leaves_the_sums_on_the_host():
    def to_such(x):
        if x.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return x.to("meta")

    metrics = TokenMetrics(TOKEN_BYTES)._apply(to_such)
    batch = make_batch(2, 6, seed=3)
    metrics.update(*batch)
    assert as_floats(metrics.compute()) == pytest.approx(direct([batch]), rel=1e-9)
    metrics.reset()
    assert int(metrics.tokens) == 0


def test_each_domain_has_its_own_loss_and_all_together_are_as_one():
    batches = [("web", make_batch(2, 6, seed=1)), ("code", make_batch(3, 5, seed=2)), ("web", make_batch(1, 9, seed=3))]
    values = by_domain({"code": 1.0, "web": 1.0, "wiki": 1.0}, batches)
    whole = direct([batch for _, batch in batches])
    assert {name: values[name] for name in whole} == pytest.approx(whole, rel=1e-9)
    for domain in ("web", "code"):
        own = direct([batch for name, batch in batches if name == domain])
        assert values[f"loss/{domain}"] == pytest.approx(own["loss"], rel=1e-9)
        assert values[f"bits_per_byte/{domain}"] == pytest.approx(own["bits_per_byte"], rel=1e-9)
    assert math.isnan(values["loss/wiki"])
    assert math.isnan(values["bits_per_byte/wiki"])


def test_bits_per_byte_is_per_byte_of_text_where_tokens_decode_to_more_or_fewer():
    batches = [("web", make_batch(2, 6, seed=1)), ("code", make_batch(3, 5, seed=2))]
    plain, values = (by_domain(ratios, batches) for ratios in ({"web": 1, "code": 1}, {"web": 0.8, "code": 1.25}))
    assert values["bits_per_byte/web"] == pytest.approx(plain["bits_per_byte/web"] / 0.8, rel=1e-12)
    assert values["bits_per_byte/code"] == pytest.approx(plain["bits_per_byte/code"] / 1.25, rel=1e-12)
    sizes = [sum(int(TOKEN_BYTES[label]) for label in batch[2].flatten() if label >= 0) for _, batch in batches]
    nats = plain["bits_per_byte"] * sum(sizes)
    assert values["bits_per_byte"] == pytest.approx(nats / (0.8 * sizes[0] + 1.25 * sizes[1]), rel=1e-12)
    # one domain needs no name and is not logged twice
    (one,) = {by_domain({"text": 0.5}, [(name, batches[0][1])])["bits_per_byte"] for name in ("text", None)}
    assert one == pytest.approx(2 * direct([batches[0][1]])["bits_per_byte"])


def test_a_batch_of_no_known_domain_is_refused():
    for domain in (None, "wiki"):
        with pytest.raises(ValueError, match=r"got a batch of domain .*, expected one of web, code"):
            by_domain({"web": 1.0, "code": 1.0}, [(domain, make_batch(1, 3, seed=1))])
