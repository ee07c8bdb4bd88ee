"""One trained run for all tests of the command line."""

from pathlib import Path

import pytest

from litespark.cli import main
from tests.cli.tiny_run import tiny
from tests.process_state import as_before


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Path:
    """A folder with a text, its prepared data and two runs: logs/runs/first and logs/runs/second."""
    folder = tmp_path_factory.mktemp("house")
    with as_before():
        for name, seed in (("first", 1), ("second", 2)):
            assert (
                main(["train", *tiny(folder, name=name, seed=seed, callbacks__checkpoint_every=2, precision="fp32")])
                == 0
            )
    return folder


@pytest.fixture
def run(house) -> Path:
    return house / "logs" / "runs" / "first"
