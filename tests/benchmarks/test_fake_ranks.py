"""The 30b experiment over 64 and 512 GPUs: what PyTorch shards and sends under a fake process group is as planned."""

from collections import Counter

import pytest
import torch

from litespark.models.spec import with_layers
from litespark.planning.communication import group_of
from litespark.planning.ranks import Layout, plan_rank
from litespark.run.composing import compose_parts
from tests.benchmarks.fake_ranks_worker import report
from tests.warm_processes import run_ranks


@pytest.mark.parametrize(
    "strategy, nodes, layers",
    [
        ("hsdp", 8, 2),
        pytest.param("fsdp", 8, None, marks=pytest.mark.slow),
        pytest.param("fsdp", 64, None, marks=pytest.mark.slow),
        pytest.param("hsdp", 64, None, marks=pytest.mark.slow),
    ],
)
def test_a_micro_batch_of_30b_holds_and_sends_what_is_planned(tmp_path, strategy, nodes, layers):
    overrides = ["experiment=llama30b_litespark", f"strategy={strategy}"]
    run_ranks(1, report, tmp_path / "rank.pt", overrides, layers, nodes, 8)
    counted = torch.load(tmp_path / "rank.pt", weights_only=True)

    parts = compose_parts(overrides)
    model = parts.model if layers is None else with_layers(parts.model, layers)
    layout = Layout(nodes, 8)
    planned = plan_rank(
        model, parts.strategy, layout, parts.optim, micro_batches=1, micro_batch_size=1, seq_len=4096, narrow=True,
        recompute="full", kept=None,
    )  # fmt: skip
    assert parts.trainer.accumulate(1, layout.ranks) == 1024 // layout.ranks
    assert counted["held"] == [planned.parameters, planned.gradients]
    payloads, calls = Counter(), Counter()
    for collective, payload, ranks in counted["sent"]:
        payloads[collective, tuple(ranks)] += payload
        calls[collective, tuple(ranks)] += 1
    of_model = [one for one in planned.exchanges if one.what in ("parameters", "gradients")]
    keys = {one: (one.collective, tuple(group_of(planned.roles, one.over))) for one in of_model}
    assert payloads == {key: one.payload for one, key in keys.items()}
    assert calls == {key: one.calls for one, key in keys.items()}
