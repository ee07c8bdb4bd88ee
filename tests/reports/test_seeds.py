"""Runs that differ in their seed alone are averaged, and no others are."""

from litespark.reports.runs import load_runs
from litespark.reports.seeds import seeds_section
from tests.reports.synthetic_runs import write_run


def rows(section):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section[-1].splitlines()]


def test_seeds_have_their_mean_and_spread_for_each_setting(run_folders):
    runs = load_runs([run_folders / "sweep"])
    header, _, *groups = rows(seeds_section(runs))
    assert header == ["optim.lr", "seeds", "validation loss", "bits per byte", "tokens/s", "energy/token"]
    assert [group[:2] for group in groups] == [["0.001", "1, 2"], ["0.0003", "1, 2"], ["0.0001", "1"]]
    first, second = (run.record.quality.validation_loss for run in runs[:2])
    mean = f"{(first + second) / 2:.3f} ± "
    assert groups[0][2].startswith(mean)
    assert f"({min(first, second):.3f} to {max(first, second):.3f}, n = 2)" in groups[0][2]
    assert groups[1][5].endswith("(n = 1)")  # one of the two had no energy counter
    assert groups[2][2].endswith("(n = 1)")


def test_runs_of_one_seed_or_unfinished_ones_are_not_averaged(tmp_path):
    write_run(tmp_path / "1", seed=1, steps=8)
    write_run(tmp_path / "2", seed=1, steps=8, learning_rate=3e-4)
    write_run(tmp_path / "3", seed=2, steps=8, status="failed")
    assert seeds_section(load_runs([tmp_path])) == []
