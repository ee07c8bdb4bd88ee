"""A sweep writes one folder a run, reports a failed job and runs the others; the report puts runs side by side."""

import json
from pathlib import Path

from litespark.reports.report import write_comparison
from tests.end_to_end.runs import TINY, train, write_text


def test_sweep_writes_one_folder_a_run_and_survives_a_failed_job(tmp_path: Path):
    write_text(tmp_path / "text", documents=10)
    printed = train(
        "-m",
        *TINY,
        "budget.steps=3",
        f"data.source={tmp_path}/text",
        f"paths.data={tmp_path}/data",
        f"paths.logs={tmp_path}/logs",
        "optim.lr=1e-3,-1,3e-4",
        "seed=1,2",
        expect=1,
    )
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
        *[(True, False)] * 2, *[(False, True)] * 2, *[(True, False)] * 2
    ]  # fmt: skip
    assert all(run.name in printed.split("Sweep of")[1] for run in runs)

    report = write_comparison([tmp_path / "logs/runs"], tmp_path / "comparison")
    text = report.read_text()
    assert "optim.lr" in text
    assert "0.0003" in text
    assert all(f"| {seed} " in text for seed in (1, 2))
