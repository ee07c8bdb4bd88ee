"""The section on fp8 says what the record says, and nothing of runs without it."""

import dataclasses

import pytest
import yaml

from litespark.metrics.records.run import DeviceRecord, RunRecord
from litespark.metrics.records.run_fp8 import Fp8MoveRecord, Fp8SharesRecord
from litespark.reports.fp8_text import MOST_MOVES, in_a_sentence
from litespark.reports.ledger import render
from litespark.reports.report import write_comparison, write_report
from tests.metrics.records.test_run import make_record
from tests.metrics.records.test_run_fp8 import DOWN, fp8_record
from tests.reports.synthetic_runs import write_run
from tests.reports.test_report import cells, change, section

pytestmark = pytest.mark.usefixtures("unpainted")


@pytest.fixture
def folder(tmp_path):
    return in_fp8(write_run(tmp_path / "run"))


def in_fp8(folder, **changes):
    """Make a run folder one of a run in fp8, by its config and its record."""
    environment = dataclasses.replace(RunRecord.read(folder / "run.json").environment, precision="fp8")
    change(folder, fp8=fp8_record(**changes), environment=environment)
    with_config(folder, precision={"name": "fp8"})
    return folder


def with_config(folder, **values):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def test_recipe_layers_and_moves_stand_beside_loss_and_speed(folder):
    report = write_report(folder).read_text()
    fp8 = section(report, "fp8")
    assert cells(fp8, "recipe") == ["delayed", "activations and weights e4m3, gradients e5m2"]
    assert cells(fp8, "linear layers in fp8 now") == ["7 of 8 (87.5 %)", "qkv, output, gate_up, down of 2 of 2 blocks"]
    assert cells(fp8, "validation loss")[0] == "2.649 nats/token"
    assert cells(fp8, "tokens/s")[0] == "32.77 k"
    assert cells(fp8, "casts")[0] == "triton"
    assert cells(fp8, "readings") == [
        "5",
        "a layer goes to bf16 when several in a row find that more than 0.100 % of one of its tensors saturates or "
        "more than 25.0 % becomes zero",
    ]
    why = "2.00 % of its input saturates, above 0.100 % in 3 readings in a row"
    assert f"| 30 | {DOWN} | delayed | bf16 | {why} |" in fp8
    assert f"| {DOWN}.input | 2.00 % (highest 3.00 %) | 0 % (highest 0.100 %) | 30 |" in fp8
    assert report.index("## Loss beside speed") < report.index("## fp8") < report.index("## Ops")
    assert cells(section(report, "Environment"), "precision") == ["fp8 (delayed)"]


def test_a_run_without_fp8_has_no_such_section(tmp_path):
    assert "## fp8" not in write_report(write_run(tmp_path / "run")).read_text()


def test_blocks_that_stay_in_bf16_are_counted(folder):
    change(folder, fp8=fp8_record(layers=28, bf16_first=1, bf16_last=2))
    about = cells(section(write_report(folder).read_text(), "fp8"), "linear layers in fp8 now")[1]
    assert about.endswith("of 25 of 28 blocks; the first 1 and the last 2 stay in bf16")


def test_the_speed_of_a_simulation_is_nowhere_taken_for_that_of_fp8(folder):
    change(folder, fp8=fp8_record(simulated=True))
    report = write_report(folder).read_text()
    assert "the speed is not that of fp8" in cells(section(report, "fp8"), "products")[1]
    assert "fp8 is simulated, so this is not its speed" in cells(section(report, "Results"), "tokens/s")[1]
    assert cells(section(report, "Environment"), "precision") == ["fp8 (delayed, simulated)"]


def test_returns_and_warnings_have_their_own_words(folder):
    back = Fp8MoveRecord(90, DOWN, "bf16", "delayed", "return", 100)
    warned = Fp8MoveRecord(95, DOWN, "delayed", "delayed", "underflow", 1, f"{DOWN}.gradient", 0.5, 0.25)
    change(folder, fp8=fp8_record(moves=[back, warned]))
    fp8 = section(write_report(folder).read_text(), "fp8")
    assert f"| 90 | {DOWN} | bf16 | delayed | its recipe is tried again, after 100 readings in a row |" in fp8
    assert "only warned of: 50.0 % of its gradient becomes zero, above 25.0 % in 1 reading |" in fp8


def test_only_the_latest_of_many_moves_are_shown(folder):
    moves = [Fp8MoveRecord(step, DOWN, "bf16", "delayed", "return", 1) for step in range(1, MOST_MOVES + 6)]
    change(folder, fp8=fp8_record(moves=moves))
    fp8 = section(write_report(folder).read_text(), "fp8")
    assert "(5 earlier ones are in run.json)" in fp8
    assert f"| 5 | {DOWN} |" not in fp8
    assert f"| 6 | {DOWN} |" in fp8


def test_the_tensors_nearest_to_their_bounds_come_first(folder):
    shares = [
        Fp8SharesRecord("blocks.0.mlp.down.input", 10, 0.0, 0.2, 0.0, 0.2),  # 0.8 of its bound
        Fp8SharesRecord("blocks.1.mlp.down.input", 10, 0.0009, 0.0, 0.0009, 0.0),  # 0.9
        Fp8SharesRecord("blocks.2.mlp.down.input", 10, 0.0, 0.0, 0.0, 0.0),
    ]
    change(folder, fp8=fp8_record(shares=shares))
    fp8 = section(write_report(folder).read_text(), "fp8")
    assert fp8.index("blocks.1.mlp.down.input") < fp8.index("blocks.0.mlp.down.input")
    assert "blocks.2.mlp.down.input" not in fp8


def test_a_run_that_lost_nothing_and_one_that_read_nothing_say_so(folder):
    quiet = {"moved": [], "moves": [], "in_fp8": 8}
    shares = [Fp8SharesRecord(f"{DOWN}.input", 30, 0.0, 0.0, 0.0, 0.0)]
    change(folder, fp8=fp8_record(**quiet, shares=shares))
    fp8 = section(write_report(folder).read_text(), "fp8")
    assert "No layer moved.\n\nOf no tensor was any value lost" in fp8
    change(folder, fp8=fp8_record(**quiet, shares=[], readings=0))
    assert "No layer moved: nothing that casts lose was read." in write_report(folder).read_text()


def test_the_ledger_has_a_sentence_of_fp8(tmp_path):
    assert in_a_sentence(fp8_record(simulated=True, moves=[])).startswith("fp8 simulated, delayed: 7 of 8")
    run = make_record(status="finished", fp8=fp8_record())
    run.environment.devices = [DeviceRecord(run.environment.cpu)]
    (tmp_path / "a-cpu").mkdir()
    run.write(tmp_path / "a-cpu" / "2026-01-31_quickstart_tiny_fp8.json")
    assert "fp8 delayed: 7 of 8 linear layers at the end, 1 move." in render(tmp_path)


# ---------------------------------------------------------------- beside bf16


def pair(tmp_path, loss, **fp8):
    """A run, and the same in fp8 that ended at `loss` times its validation loss."""
    without, within = write_run(tmp_path / "plain"), in_fp8(write_run(tmp_path / "eight"), **fp8)
    with_config(without, precision={"name": "bf16"})
    before = RunRecord.read(without / "run.json").quality.validation_loss
    change(within, quality={"validation_loss": before * loss}, throughput={"tokens_per_second": 40_000.0})
    return [without, within]


@pytest.mark.parametrize(("loss", "said"), [(1.004, ("+0.400 %", "yes")), (1.006, ("+0.600 %", "no")),
                                            (0.997, ("-0.300 %", "yes")), (0.98, ("-2.00 %", "no"))])  # fmt: skip
def test_a_run_in_fp8_is_held_against_the_same_run_without_it(tmp_path, loss, said):
    report = write_comparison(pair(tmp_path, loss), tmp_path / "out").read_text()
    parity = cells(section(report, "fp8 beside the same run without it"), "eight")
    assert (parity[0], parity[3], parity[4]) == ("plain", *said)
    assert parity[5] == "40.00 k against 32.77 k, 1.22 times"


def test_the_speed_of_a_simulation_is_not_compared(tmp_path):
    report = write_comparison(pair(tmp_path, 1.0, simulated=True), tmp_path / "out").read_text()
    assert cells(section(report, "fp8 beside the same run without it"), "eight")[5] == "simulated, so not compared"


@pytest.mark.parametrize("what", ["config", "tokens", "data"])
def test_runs_that_differ_in_more_than_precision_are_not_held_against_each_other(tmp_path, what):
    folders = pair(tmp_path, 1.0)
    if what == "config":
        with_config(folders[1], optim={"lr": 1.0})
    elif what == "tokens":
        change(folders[1], throughput={"tokens": 17})
    else:
        change(folders[1], data={"manifest_hash": "ffff"})
    assert "beside the same run" not in write_comparison(folders, tmp_path / "out").read_text()
