"""What a rank of the 30b experiment holds and sends, against numbers worked out by hand."""

import pytest

from litespark.models.llama.config import LlamaConfig
from litespark.planning.ranks import Layout, Links, plan_rank
from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.parallel.config import StrategyConfig

SIZES = {"hidden_size": 6144, "num_layers": 60, "num_heads": 48, "num_kv_heads": 8, "intermediate_size": 22016}
LLAMA30B = LlamaConfig("llama30b", **SIZES, vocab_size=32000, max_seq_len=4096)
# qkv 8192 x 6144, output 6144 x 6144, gate_up 44032 x 6144, down 6144 x 22016 and two norms
MATRICES = 8192 * 6144 + 6144 * 6144 + 44032 * 6144 + 6144 * 22016
BLOCK = MATRICES + 2 * 6144
REST = 2 * 32000 * 6144 + 6144
PARAMETERS = 60 * BLOCK + REST
MICRO_BATCHES = 2


def plan(name, nodes, optimizer=None, **settings):
    return plan_rank(
        LLAMA30B,
        StrategyConfig(name, **settings),
        Layout(nodes, 8),
        optimizer or AdamWConfig(),
        micro_batches=MICRO_BATCHES,
        micro_batch_size=1,
        seq_len=4096,
        narrow=True,
        recompute="full",
        kept=4_000_000_000,
    )


def test_the_sizes_are_those_of_the_config():
    assert LLAMA30B.parameter_count() == PARAMETERS == 30_026_717_184


def test_a_full_shard_over_64():
    of_rank = plan("fsdp", nodes=8)
    # every row count divides by 64
    assert (of_rank.parameters, of_rank.gradients) == (4 * PARAMETERS // 64,) * 2
    assert of_rank.states == 8 * PARAMETERS // 64
    # in bf16 the embedding, the head and two blocks; the gradients of a block as they are made, and in fp32
    assert of_rank.gathered == 2 * (REST + 2 * BLOCK) + (2 + 4) * BLOCK
    assert of_rank.held == 16 * PARAMETERS // 64 + of_rank.gathered + 4_000_000_000
    # in each micro-batch gathered twice in bf16, reduced in fp32; 63/64 around the ring, an eighth of it between nodes
    assert of_rank.sent("all_gather") == pytest.approx(MICRO_BATCHES * 2 * 2 * PARAMETERS * 63 / 64)
    assert of_rank.sent("reduce_scatter") == pytest.approx(MICRO_BATCHES * 4 * PARAMETERS * 63 / 64)
    assert of_rank.sent("all_reduce") < 10_000  # norms, loss and counts
    assert of_rank.across == pytest.approx(of_rank.sent() / 8)
    assert of_rank.seconds(Links(inside=450e9, across=50e9)) == pytest.approx(of_rank.across / 50e9)


def test_a_full_shard_over_512_fills_rows_up():
    of_rank = plan("fsdp", nodes=64)
    # 32000 rows are filled up to 63 in each of 512 ranks; all other rows divide
    assert of_rank.parameters == 4 * (60 * BLOCK + 6144 + 2 * 512 * 63 * 6144) // 512


def test_a_hybrid_sends_parameters_within_nodes_and_an_eighth_of_the_gradients_between_them():
    for nodes in (8, 64):
        of_rank = plan("hsdp", nodes=nodes)
        assert of_rank.parameters == 4 * PARAMETERS // 8
        assert of_rank.inside == pytest.approx(MICRO_BATCHES * (2 * 2 + 4) * PARAMETERS * 7 / 8, rel=1e-6)
        between = 2 * 4 * PARAMETERS / 8 * (nodes - 1) / nodes
        assert of_rank.across == pytest.approx(between, rel=1e-6)


def test_copies_do_not_fit_and_send_gradients_once():
    of_rank = plan("ddp", nodes=8)
    assert of_rank.parameters + of_rank.gradients + of_rank.states == 16 * PARAMETERS
    assert of_rank.gathered == 2 * 60 * MATRICES  # the matrices of blocks, cast once a step
    assert of_rank.sent() == pytest.approx(2 * 4 * PARAMETERS * 63 / 64, rel=1e-6)


def test_whole_gradients_are_held_so_as_not_to_be_sent():
    sharded, whole = (plan("fsdp", nodes=8, accumulate=how) for how in ("sharded", "whole"))
    assert whole.gathered == (2 + 4) * PARAMETERS
    # gathered once instead of twice in each of two micro-batches, reduced once instead of twice
    assert whole.sent("all_gather") == pytest.approx(sharded.sent("all_gather") / 4)
    assert whole.sent("reduce_scatter") == pytest.approx(sharded.sent("reduce_scatter") / 2)


def test_muon_has_one_moment_of_the_matrices():
    adamw, muon = plan("fsdp", 8), plan("fsdp", 8, MuonConfig())
    assert adamw.states - muon.states == 4 * 60 * MATRICES // 64


def test_activations_that_are_not_counted_are_not_guessed():
    of_rank = plan_rank(
        LLAMA30B, StrategyConfig("fsdp"), Layout(1, 8), AdamWConfig(), micro_batches=1, micro_batch_size=1,
        seq_len=4096, narrow=False, recompute="none", kept=None,
    )  # fmt: skip
    assert of_rank.held is None
    # in fp32 what is gathered is as wide as the masters
    assert of_rank.sent("all_gather") == pytest.approx(2 * 4 * PARAMETERS * 7 / 8)


def test_matrices_in_parts_exchange_activations():
    """8 ranks compute each matrix: a layer gathers and reduces (1, 4096, 6144) in bf16 twice each way, and forward
    again but for the last product; the embedding, the head, the loss and the norms come on top."""
    of_rank = plan("tp", nodes=1)
    stream = 4096 * 6144 * 2
    by_collective = {
        kind: sum(one.payload for one in of_rank.exchanges if one.collective == kind and one.over == "tensor")
        for kind in ("all_gather", "reduce_scatter", "all_reduce")
    }
    assert by_collective == {
        "all_gather": MICRO_BATCHES * (60 * 6 + 2) * stream,
        "reduce_scatter": MICRO_BATCHES * (60 * 5 + 2) * stream,
        # three numbers of each token, and the weights of norms in bf16; once the norms of 9 parameters a layer and 3
        "all_reduce": MICRO_BATCHES * (3 * 4096 * 4 + (2 * 60 + 1) * 6144 * 2) + 4 * (60 * 9 + 3),
    }
    assert of_rank.across == 0
    assert of_rank.kept == 4_000_000_000 // 8
    assert of_rank.parameters == 4 * (60 * (MATRICES // 8 + 2 * 6144) + 2 * 32000 * 6144 // 8 + 6144)
