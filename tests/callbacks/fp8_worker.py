"""Two processes that train in fp8 together, of which one alone has activations that outgrow their scales.

The second is forked from the first: what they import takes most of their time. Writes what each rank decided and logged
to `FOLDER/rank-R.pt`.
"""

import logging
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from litespark.training.strategies import StrategyConfig
from tests.callbacks.fp8_runs import Fp8Run, Plant, fp8_config
from tests.training.small_runs import batches


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def train(folder: Path, rank: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "fp8", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    }  # fmt: skip
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    lines = Lines()
    logging.getLogger("litespark.callbacks.fp8").addHandler(lines)
    growing = Plant(dict.fromkeys(range(2, 8), 8.0), channels=None)
    run = Fp8Run(
        folder,
        fp8_config(return_after=None),
        steps=6,
        plant=growing if rank == 1 else None,
        strategy=StrategyConfig("ddp"),
        devices=2,
    )
    run.run.trainer.fit(run.module, batches(2))
    assert run.record.fp8 is not None
    assert run.module.model is not None
    assert run.module.model.fp8 is not None
    found = {
        "moves": run.moves(),
        "recipes": {name: linear.recipe for name, linear in run.module.model.fp8.linears.items()},
        "shares": [asdict(each) for each in run.record.fp8.shares],
        "lines": lines.lines,
    }
    torch.save(found, folder / f"rank-{rank}.pt")


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    child = os.fork()
    if child == 0:
        train(folder, 1)
        return
    train(folder, 0)
    assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
