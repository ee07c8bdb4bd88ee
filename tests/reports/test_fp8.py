"""The section on fp8 has what the record has, and there is none of runs without it."""

import pytest
import yaml

from litespark.ops.fp8.adaptive import Move
from litespark.reports import fp8, tables
from litespark.reports.report import write_report
from litespark.reports.runs import load_run
from litespark.run.record import RunRecord
from litespark.run.record_fp8 import Fp8SharesRecord
from tests.metrics.records.hand_made import DOWN, changed, fp8_record
from tests.reports.rows import row
from tests.reports.synthetic_runs import write_run
from tests.reports.test_report import change, section

pytestmark = pytest.mark.usefixtures("unpainted")


def in_fp8(folder, **changes):
    """Make a run folder one of a run in fp8, by its config and its record."""
    provenance = changed(RunRecord.read(folder / "run.json").provenance, "environment.precision", "fp8")
    change(folder, fp8=fp8_record(**changes), provenance=provenance)
    with_config(folder, precision={"name": "fp8"})
    return folder


def with_config(folder, **values):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path):
    return in_fp8(write_run(tmp_path / "run"))


def shown(folder, **changes):
    """The tables of a run whose fp8 has these changes."""
    change(folder, fp8=fp8_record(**changes))
    return fp8.tables(load_run(folder))


def test_recipe_layers_moves_and_losses_of_casts_stand_beside_loss_and_speed(folder, tmp_path):
    facts, moves, worst = fp8.tables(load_run(folder))
    assert row(facts, "recipe") == ["delayed", "activations and weights e4m3, gradients e5m2"]
    assert row(facts, "linear layers in fp8 now") == ["7 of 8 (87.5 %)", "qkv, output, gate_up, down of 2 of 2 blocks"]
    beside = {"validation loss": "2.649 nats/token", "tokens/s": "32.77 k", "casts": "triton", "readings": "5"}
    assert {what: row(facts, what)[0] for what in beside} == beside
    assert "saturates or more than 25.0 % becomes zero" in row(facts, "readings")[1]
    why = "2.000% of its input saturates, above 0.100% in 3 readings in a row"
    assert moves.cells == [["30", DOWN, "delayed", "bf16", why]]
    assert row(worst, f"{DOWN}.input") == ["2.00 % (highest 3.00 %)", "0 % (highest 0.100 %)", "30"]
    report = write_report(folder).read_text()
    assert report.index("## Loss beside speed") < report.index("## fp8") < report.index("## Ops")
    assert moves.markdown() in section(report, "fp8")
    assert "| precision | fp8 (delayed) |" in report
    assert "## fp8" not in write_report(write_run(tmp_path / "without")).read_text()


def test_the_speed_of_a_simulation_is_nowhere_taken_for_that_of_fp8(folder):
    facts, *_ = shown(folder, simulated=True, layers=28, bf16_first=1, bf16_last=2)
    assert "the speed is not that of fp8" in row(facts, "products")[1]
    about = row(facts, "linear layers in fp8 now")[1]
    assert about.endswith("of 25 of 28 blocks; the first 1 and the last 2 stay in bf16")
    assert "fp8 is simulated, so this is not its speed" in row(tables.headline(load_run(folder)), "tokens/s")[1]
    assert fp8.in_a_sentence(fp8_record(simulated=True, moves=[])).startswith("fp8 simulated, delayed: 7 of 8")


def test_the_latest_of_many_moves_and_the_tensors_nearest_to_their_bounds_are_shown(folder):
    back = [Move(step, DOWN, "bf16", "delayed", "return", 100) for step in range(1, fp8.MOST_MOVES + 6)]
    warned = Move(95, DOWN, "delayed", "delayed", "underflow", 1, f"{DOWN}.gradient", 0.5, 0.25)
    shares = [
        Fp8SharesRecord("blocks.0.mlp.down.input", 10, 0.0, 0.2, 0.0, 0.2),  # 0.8 of its bound
        Fp8SharesRecord("blocks.1.mlp.down.input", 10, 0.0009, 0.0, 0.0009, 0.0),  # 0.9
        Fp8SharesRecord("blocks.2.mlp.down.input", 10, 0.0, 0.0, 0.0, 0.0),
    ]
    _, moves, worst = shown(folder, moves=[*back, warned], shares=shares)
    assert "(6 earlier ones are in run.json)" in moves.title
    assert [cells[0] for cells in moves.cells] == [*map(str, range(7, fp8.MOST_MOVES + 6)), "95"]
    assert moves.cells[0][4] == "its recipe is tried again, after 100 readings in a row"
    assert moves.cells[-1][4] == "50.000% of its gradient becomes zero, above 25.000% in 1 reading"
    assert [cells[0] for cells in worst.cells] == ["blocks.1.mlp.down.input", "blocks.0.mlp.down.input"]


def test_a_run_that_lost_nothing_and_one_that_read_nothing_say_so(folder):
    nothing = Fp8SharesRecord(f"{DOWN}.input", 30, 0.0, 0.0, 0.0, 0.0)
    _, *tables_of_casts = shown(folder, moves=[], in_fp8=8, shares=[nothing])
    titles = ["No layer moved.", "Of no tensor was any value lost in a cast that was counted."]
    assert [table.title for table in tables_of_casts] == titles
    (_, moves) = shown(folder, moves=[], in_fp8=8, shares=[], readings=0)
    assert moves.title == "No layer moved: nothing that casts lose was read."
