"""Two ranks over gloo, of which the second is forked from the first: importing takes most of their time."""

import os
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist


def on_two_ranks(work: Callable[[int], None], store: Path) -> None:
    """Do the work of each rank in a process of its own; `store` is the file over which they meet."""
    child = os.fork()
    rank = int(child == 0)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    }  # fmt: skip
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    work(rank)
    if rank == 0:
        assert os.waitpid(child, 0)[1] == 0
    dist.destroy_process_group()
