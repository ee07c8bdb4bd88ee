"""A rank that hangs ends the job with the stacks of all ranks, and does not wait for the time-out of a collective."""

import os
import re
import time

from litespark.training.step import OptimizerStep
from tests.end_to_end.runs import TINY
from tests.warm_processes import run_ranks, train_py


def hanging(*overrides):
    """What torchrun starts, of which rank 1 never comes to the end of its second step."""
    compute, steps = OptimizerStep.finish, []

    def finish(*arguments):
        steps.append(0)
        while os.environ["RANK"] == "1" and len(steps) == 2:
            time.sleep(1)
        return compute(*arguments)

    OptimizerStep.finish = finish
    train_py(*overrides)


def test_a_rank_that_hangs_ends_all_with_their_stacks(tmp_path):
    begun = time.monotonic()
    asked = [word for word in TINY if "validation_sequences" not in word]
    asked += ["data=synthetic", "strategy=ddp", "strategy.hang_seconds=4", "budget.steps=3", f"paths.logs={tmp_path}"]
    try:
        run_ranks(2, hanging, *asked)
    except AssertionError as error:
        said = str(error)
    else:
        raise AssertionError("the run ended as if nothing had hung")
    assert time.monotonic() - begun < 60
    for rank in (0, 1):
        assert f"rank {rank}: no progress for 4 s (strategy.hang_seconds) after step 1" in said
    assert re.search(r"test_hang.py\", line \d+ in finish", said)  # where rank 1 sleeps
    assert "all_reduce" in said  # where rank 0 waits
