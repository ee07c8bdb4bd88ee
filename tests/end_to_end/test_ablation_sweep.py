"""`sweep=` runs what its file holds: folders named by their variants, and the report makes their table."""

import json
from pathlib import Path

import yaml

from litespark.reports.report import write_comparison
from tests.end_to_end.runs import TINY, train, write_text

VARIANTS = "{label:baseline,ops:{linear_cross_entropy:reference}},{label:target,ops:{linear_cross_entropy:chunked}}"


def test_a_sweep_of_variants_is_an_ablation(tmp_path: Path):
    write_text(tmp_path / "text", documents=10)
    printed = train(
        "sweep=ops_ablation",
        f"hydra.sweeper.params.variant='{VARIANTS}'",  # in place of all of them
        *TINY,
        "budget.steps=6",
        f"data.source={tmp_path}/text",
        f"paths.data={tmp_path}/data",
        f"paths.logs={tmp_path}/logs",
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
