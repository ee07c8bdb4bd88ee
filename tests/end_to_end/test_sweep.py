"""A sweep writes one folder a run, reports a failed job and runs the others; the report puts runs side by side."""

import json
from pathlib import Path

import yaml

from litespark.reports.report import write_comparison
from tests.end_to_end.runs import TINY, train, write_text

VARIANTS = "{label:baseline,ops:{linear_cross_entropy:reference}},{label:target,ops:{linear_cross_entropy:chunked}}"


def places(folder: Path) -> list[str]:
    text = write_text(folder / "text", documents=10)
    return [f"data.source={text}", f"paths.data={folder}/data", f"paths.logs={folder}/logs"]


def test_sweep_writes_one_folder_a_run_and_survives_a_failed_job(tmp_path: Path):
    printed = train(
        "-m", *TINY, *places(tmp_path), "budget.steps=3", "optim=muon", "schedule=wsd", "optim.lr=1e-3,-1,3e-4",
        "seed=1,2", expect=1,
    )  # fmt: skip
    runs = sorted((tmp_path / "logs/runs").iterdir())
    assert sorted(run.name.split("_", 2)[2] for run in runs) == [
        "optim.lr-0.0003_seed-1",
        "optim.lr-0.0003_seed-2",
        "optim.lr-0.001_seed-1",
        "optim.lr-0.001_seed-2",
    ]
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    assert {record["status"] for record in records} == {"finished"}
    assert sorted(record["seed"] for record in records) == [1, 1, 2, 2]
    assert printed.count("optim.lr: got -1") >= 2  # both jobs that failed are said

    table = printed.split("Sweep of 6 jobs:\n\n")[1].splitlines()
    assert table[0].split() == ["optim.lr", "seed", "loss", "bits/byte", "tokens/s", "J/token", "status", "folder"]
    assert [row.split()[:2] for row in table[1:7]] == [
        [lr, seed] for lr in ("0.001", "-1", "0.0003") for seed in ("1", "2")
    ]
    assert [("finished" in row, "failed: " in row and "optim.lr: got" in row) for row in table[1:7]] == [
        *[(True, False)] * 2,
        *[(False, True)] * 2,
        *[(True, False)] * 2,
    ]
    assert all(run.name in printed.split("Sweep of")[1] for run in runs)

    settings = yaml.safe_load((runs[0] / "config.yaml").read_text())
    assert (settings["optim"]["kind"], settings["schedule"]["kind"]) == ("muon", "wsd")


def test_a_sweep_of_variants_is_an_ablation(tmp_path: Path):
    printed = train(
        "sweep=ops_ablation",
        f"hydra.sweeper.params.variant='{VARIANTS}'",  # in place of all of them
        *TINY,
        *places(tmp_path),
        "budget.steps=6",
    )
    runs = sorted((tmp_path / "logs/runs").iterdir())
    assert [run.name.split("_", 2)[2] for run in runs] == ["baseline", "target"], printed
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in runs]
    assert [config["ops"]["linear_cross_entropy"] for config in configs] == ["reference", "chunked"]
    assert [config["variant"] for config in configs] == [{"label": "baseline"}, {"label": "target"}]
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    assert {record["status"] for record in records} == {"finished"}
    assert records[0]["provenance"]["config_hash"] != records[1]["provenance"]["config_hash"]

    said = write_comparison([tmp_path / "logs/runs"], tmp_path / "comparison").read_text()
    section = said.split("## What bought what")[1].split("\n## ")[0]
    assert "| + linear_cross_entropy |" in section
    assert "target over baseline: tokens/s × " in section
    assert (tmp_path / "comparison" / "comparison_ablation.png").is_file()
