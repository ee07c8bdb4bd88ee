"""The network: loss and logits, packed documents, recomputation, precision, and sequences that are refused."""

import pytest
import torch

from litespark.models.cache import KeyValueCache
from litespark.ops.backend import OpsConfig
from litespark.ops.tolerance import relative_distance
from tests.models.small import SDPA, gradients, random_ids, small_model
from tests.ops.assertions import assert_close

LENGTHS = [7, 1, 12, 4]


def _packed(lengths=LENGTHS):
    documents = torch.cat([torch.full((length,), index) for index, length in enumerate(lengths)]).unsqueeze(0)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    tokens, labels = random_ids(1, sum(lengths)), random_ids(1, sum(lengths), seed=1)
    return tokens, labels, positions, documents.int()


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_loss_is_the_cross_entropy_of_the_logits(reduction):
    model, tokens, labels = small_model(), random_ids(2, 9), random_ids(2, 9, seed=1)
    labels[0, 3] = -100
    nats = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="none").view(2, 9)
    found = model(tokens, labels, reduction=reduction)
    if reduction == "sum":
        torch.testing.assert_close(found, nats.sum())
    else:
        torch.testing.assert_close(found.nats, nats)
        assert torch.equal(found.correct, (model(tokens).argmax(-1) == labels))


@pytest.mark.parametrize("ops", [OpsConfig(), SDPA], ids=["reference", "sdpa"])
def test_packed_documents_equal_separate_ones_in_loss_logits_and_gradients(ops):
    tokens, labels, positions, documents = _packed()
    packed, separate = small_model(ops), small_model(ops)
    loss = packed(tokens, labels, positions=positions, documents=documents)
    loss.backward()
    pieces = list(zip(tokens.split(LENGTHS, 1), labels.split(LENGTHS, 1), strict=True))
    losses = torch.stack([separate(*piece) for piece in pieces])
    losses.sum().backward()
    assert relative_distance(loss, losses.sum()) < 1e-6
    assert_close(gradients(packed), gradients(separate))
    logits = torch.cat([separate(piece) for piece, _ in pieces], dim=1)
    assert relative_distance(packed(tokens, positions=positions, documents=documents), logits) < 1e-5


@pytest.mark.parametrize("packed", [False, True])
def test_recomputing_changes_neither_loss_nor_gradients(packed):
    tokens, labels, positions, documents = _packed()
    extra = {"positions": positions, "documents": documents} if packed else {}
    plain, again = small_model(), small_model(recompute="full")
    runs = []
    again.blocks[0].attention.register_forward_hook(lambda *_: runs.append(1))
    losses = [model(tokens, labels, **extra) for model in (plain, again)]
    for loss in losses:
        loss.backward()
    assert losses[0] == losses[1]
    expected = gradients(plain)
    for name, gradient in gradients(again).items():
        assert torch.equal(gradient, expected[name]), name
    assert len(runs) == 2
    again.eval()(tokens, labels, **extra)
    assert len(runs) == 3


def test_no_buffer_enters_a_checkpoint_and_rotary_frequencies_stay_fp32_in_a_bf16_model():
    model = small_model()
    before = model.rotary.inverse_frequencies.clone()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    model.to(torch.bfloat16)
    assert torch.equal(model.rotary.inverse_frequencies, before)


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_bf16_autocast_stays_near_fp32_and_returns_fp32(tie_embeddings):
    model, tokens, labels = small_model(tie_embeddings=tie_embeddings), random_ids(2, 16), random_ids(2, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits = model(tokens, labels), model(tokens)
    assert (loss.dtype, logits.dtype) == (torch.float32, torch.float32)
    assert relative_distance(loss, model(tokens, labels)) < 2e-2


IDS = torch.zeros(1, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": IDS[0]}, r"tokens are \(4,\) .*; expected \(B, S\)"),
        ({"tokens": IDS.float()}, "torch.float32; expected"),
        ({"tokens": IDS[:, :0]}, "S of at least 1"),
        ({"tokens": IDS.expand(1, 4).repeat(1, 17)}, "68 tokens is longer than model.max_seq_len 64"),
        ({"tokens": IDS, "labels": IDS[:, 1:]}, r"labels are \(1, 3\); expected \(1, 4\), as tokens are"),
        ({"tokens": IDS, "positions": IDS[0]}, r"positions are \(4,\)"),
        ({"tokens": IDS, "documents": IDS.repeat(2, 1)}, r"documents are \(2, 4\)"),
        ({"tokens": IDS, "documents": IDS, "cache": KeyValueCache(2, 8)}, "documents cannot be combined"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model()(**arguments)


@pytest.mark.parametrize("ops", [OpsConfig(), SDPA], ids=["reference", "sdpa"])
def test_reading_a_sequence_in_pieces_through_the_cache_gives_the_same_logits(ops):
    model, tokens, cache = small_model(ops), random_ids(2, 20), KeyValueCache(2, 20)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in tokens.split([7, 1, 5, 1, 6], dim=1)]
        assert relative_distance(torch.cat(pieces, dim=1), model(tokens)) < 1e-5
    assert cache.length == 20
    with pytest.raises(ValueError, match="45 tokens after 20 cached ones is longer"):
        model(random_ids(2, 45), cache=cache)
