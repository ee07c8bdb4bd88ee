"""What stands against tensor parallelism is said before a run starts."""

import pytest

from litespark.mesh import Roles
from litespark.run.tensor_parallel import why_not_tensor
from tests.run.composed import SMALL, parts

FITTING = [*SMALL, "model.num_heads=4", "model.num_kv_heads=4", "strategy=fsdp_tp"]


@pytest.mark.parametrize(
    ("overrides", "roles", "reason"),
    [
        ([], Roles(1, 2, 2), None),
        (["strategy=tp", "optim=muon", "recompute=swiglu"], Roles(1, 1, 4), None),
        (["model.num_kv_heads=2"], Roles(1, 1, 4), "got model.num_kv_heads=2, which 4 ranks cannot share equally"),
        (
            ["model.vocab_size=66"],
            Roles(1, 2, 2),
            "got model.vocab_size=66, whose 66 rows cannot be cut into 2 x 2",
        ),
        (["data.seq_len=7"], Roles(1, 1, 2), "got data.seq_len=7, expected a multiple of 2 ranks; set data.seq_len=8"),
        (["ops.compile=block"], Roles(1, 1, 2), "got ops.compile=block, expected none; set ops.compile=none"),
        (["adapter=lora"], Roles(1, 1, 2), "got an adapter, expected none; set adapter=none"),
        (["task=reward", "model.num_labels=1"], Roles(1, 1, 2), "got a head of labels"),
        (
            ["task=grpo", "task.rewards.parses=1.0"],
            Roles(1, 1, 2),
            "got task=grpo, expected one that",
        ),
    ],
)
def test_each_reason_is_given_with_what_mends_it(overrides, roles, reason):
    found = why_not_tensor(parts(*FITTING, *overrides), roles)
    assert found == [] if reason is None else len(found) == 1 and reason in found[0], found
