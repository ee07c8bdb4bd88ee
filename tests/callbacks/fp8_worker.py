"""Two processes that train in fp8 together, of which one alone has activations that outgrow their scales.

Writes what each rank decided and logged to `FOLDER/rank-R.pt`.
"""

import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from litespark.training.strategies import StrategyConfig
from tests.callbacks.fp8_runs import Fp8Run, Plant, fp8_config
from tests.training.forked_ranks import on_two_ranks
from tests.training.small_runs import batches


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def train(folder: Path, rank: int) -> None:
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


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    place = Path(sys.argv[1])
    on_two_ranks(lambda rank: train(place, rank), place / "store")
