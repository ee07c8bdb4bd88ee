"""Bytes between ranks, against numbers worked out by hand."""

import pytest
import torch

from litespark.mesh import Roles
from litespark.models.llama.config import LlamaConfig
from litespark.planning.communication import (
    Exchange,
    Sharing,
    crossing_share,
    data_exchanges,
    group_of,
    number_exchanges,
    padded,
    units_of,
)

GB = 1e9
# R3: in a block qkv 5120 x 3072, output 3072 x 3072, gate_up 16384 x 3072, down 3072 x 8192 and two norms of 3072;
# beside 28 of them embedding and head, 32000 x 3072 each, and a norm
BLOCK = 5120 * 3072 + 3072 * 3072 + 16384 * 3072 + 3072 * 8192 + 2 * 3072
REST = 2 * 32000 * 3072 + 3072
PARAMETERS = 28 * BLOCK + REST


@pytest.fixture(scope="module")
def r3():
    sizes = {"hidden_size": 3072, "num_layers": 28, "num_heads": 24, "num_kv_heads": 8, "intermediate_size": 8192}
    return units_of(LlamaConfig("r3", **sizes, vocab_size=32000, max_seq_len=4096))


def payloads(exchanges):
    return {(one.collective, one.over): one.payload for one in exchanges}


def test_a_unit_is_a_block_and_the_rest_is_one_more(r3):
    assert [sum(shape.numel() for shape in unit) for unit in r3] == [BLOCK] * 28 + [REST]
    assert PARAMETERS == 3_015_355_392


def test_a_shared_parameter_is_gathered_once():
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 16}
    tied = units_of(LlamaConfig("tied", **sizes, vocab_size=31, max_seq_len=8, tie_embeddings=True))
    assert tied[-1] == [torch.Size([31, 8]), torch.Size([8])]


@pytest.mark.parametrize("reduced_bytes, gigabytes", [(2, 18), (4, 24)])
def test_a_full_shard_of_3b_works_on_18_to_24_gb_in_each_micro_batch(r3, reduced_bytes, gigabytes):
    """Gathered in bf16 (6 GB) for the forward and again for the backward pass, reduced in bf16 (6 GB) or fp32 (12)."""
    exchanges = data_exchanges(r3, Roles(shard=64), Sharing(reduced_bytes=reduced_bytes))
    assert payloads(exchanges) == {
        ("all_gather", "shard"): 2 * 2 * PARAMETERS,
        ("reduce_scatter", "shard"): reduced_bytes * PARAMETERS,
    }
    assert sum(one.payload for one in exchanges) / GB == pytest.approx(gigabytes, rel=0.01)
    assert [one.calls for one in exchanges] == [2 * 29, 29]
    # around a ring of 64 ranks a rank sends 63/64 of it
    assert sum(one.sent for one in exchanges) == pytest.approx((4 + reduced_bytes) * PARAMETERS * 63 / 64)


def test_ddp_of_3b_works_on_12_gb_in_each_update_and_sends_twice_that(r3):
    (exchange,) = data_exchanges(r3, Roles(replicate=64), Sharing(micro_batches=4, by_unit=False))
    assert (exchange.collective, exchange.payload) == ("all_reduce", 4 * PARAMETERS)
    assert exchange.payload / GB == pytest.approx(12, rel=0.01)
    assert exchange.sent == pytest.approx(2 * 4 * PARAMETERS * 63 / 64)


def test_a_hybrid_of_3b_works_on_one_and_a_half_gb_across_nodes(r3):
    """8 nodes of 8: the eighth of the fp32 gradients that a rank holds, once a step, whatever the micro-batches."""
    for micro_batches in (1, 4):
        exchanges = data_exchanges(r3, Roles(replicate=8, shard=8), Sharing(micro_batches=micro_batches))
        by_key = payloads(exchanges)
        assert by_key["all_reduce", "replicate"] == 4 * PARAMETERS / 8
        assert by_key["all_reduce", "replicate"] / GB == pytest.approx(1.5, rel=0.01)
        assert by_key["all_gather", "shard"] == micro_batches * 2 * 2 * PARAMETERS
        assert by_key["reduce_scatter", "shard"] == micro_batches * 4 * PARAMETERS


@pytest.mark.parametrize(
    "reshard, whole, gathers, reductions",
    [
        (True, False, 8, 4),  # forward and backward, in each of 4 micro-batches
        (False, False, 4, 4),
        (True, True, 1, 1),
        (False, True, 1, 1),
    ],
)
def test_what_is_kept_is_not_sent_again(reshard, whole, gathers, reductions):
    unit = [torch.Size([4, 2])]
    sharing = Sharing(4, 2, 4, reshard_after_forward=reshard, reduced_whole=whole)
    exchanges = data_exchanges([unit], Roles(shard=2), sharing)
    assert payloads(exchanges) == {
        ("all_gather", "shard"): gathers * 2 * 8,
        ("reduce_scatter", "shard"): reductions * 4 * 8,
    }
    assert [one.calls for one in exchanges] == [gathers, reductions]


def test_rows_are_filled_up_to_a_multiple_of_the_shards():
    unit = [torch.Size([9, 3]), torch.Size([5])]
    assert padded(unit, 4) == 12 * 3 + 8
    assert padded(unit, 1) == 9 * 3 + 5


def test_one_rank_sends_nothing():
    assert data_exchanges([[torch.Size([4])]], Roles(), Sharing()) == []
    assert Exchange("all_gather", "tensor", "activations", 100, 1).sent == 0


@pytest.mark.parametrize(
    "roles, over, share",
    [
        (Roles(shard=8), "shard", 0),  # within one node
        (Roles(shard=64), "shard", 1 / 8),  # one of the 8 ranks of a node sends to the next node
        (Roles(replicate=64), "replicate", 1 / 8),
        (Roles(replicate=8, shard=8), "shard", 0),
        (Roles(replicate=8, shard=8), "replicate", 1),  # each rank to its like in the next node
        (Roles(replicate=4, shard=16), "shard", 1 / 8),
        (Roles(shard=8, tensor=8), "tensor", 0),
        (Roles(shard=8, tensor=8), "shard", 1),
        (Roles(shard=32, tensor=2), "shard", 1 / 4),  # 4 of its ranks in each node
    ],
)
def test_what_crosses_nodes_of_eight(roles, over, share):
    assert crossing_share(roles, over, 8) == share


def test_groups_are_those_of_a_mesh_whose_last_dimension_is_the_fastest():
    roles = Roles(replicate=2, shard=3, tensor=2)
    assert tuple(group_of(roles, "tensor", 7)) == (6, 7)
    assert tuple(group_of(roles, "shard", 7)) == (7, 9, 11)
    assert tuple(group_of(roles, "replicate", 7)) == (1, 7)
    assert tuple(group_of(roles, "world", 7)) == tuple(range(12))


def test_a_step_agrees_on_a_few_numbers():
    units = [[torch.Size([4, 2]), torch.Size([4])], [torch.Size([9])]]
    # loss and divisor and two of each of 3 that the task observes, in fp64; 5 counts of the hosts
    exchanges = number_exchanges(units, Roles(replicate=2, shard=2), observed=3)
    assert [(one.what, one.payload, one.ranks) for one in exchanges] == [
        ("sums", 8 * (2 + 6), 4),
        ("counts", 8 * 5, 4),
        ("norms", 4 * 3, 2),
    ]
    assert number_exchanges(units, Roles()) == []
