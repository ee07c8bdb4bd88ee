"""One run folder of each kind, written once; tests that change a folder make their own."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.reports.synthetic_runs import strip, write_run


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory):
    """The runs `gpu` (everything measured), `cpu` (no peak, no energy), `dead` (nothing) and `sweep/` 0 to 3 and 10."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "gpu")
    write_run(root / "cpu", gpu=False, steps=40)
    strip(write_run(root / "dead"))
    for index, rate, seed in ((0, 1e-3, 1), (1, 1e-3, 2), (2, 3e-4, 1), (3, 3e-4, 2), (10, 1e-4, 1)):
        write_run(root / "sweep" / str(index), learning_rate=rate, seed=seed, gpu=index != 3)
    return root


@pytest.fixture
def unpainted(monkeypatch):
    """Pictures are composed, and their files are empty: painting them takes most of the time of a report."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **settings: Path(path).touch())
