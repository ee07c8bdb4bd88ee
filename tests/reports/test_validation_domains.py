"""The report's table of what was reached by domain."""

import json

import pytest

from litespark.reports.report import write_report
from litespark.reports.runs import load_run
from litespark.reports.validation_domains import domains_section
from tests.reports.synthetic_runs import write_run

pytestmark = pytest.mark.usefixtures("unpainted")


def test_the_last_value_of_each_domain_is_shown_with_what_was_not_measured(tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    rows = [
        {"step": 10, "progress/tokens": 81920, "validation/loss/web": 5.0, "validation/bits_per_byte/web": 2.0},
        {"step": 20, "progress/tokens": 163840, "validation/loss/web": 4.25, "validation/loss/a|b": 3.5},
    ]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({**row, "time": "2026-01-31T12:00:05+00:00"}) + "\n" for row in rows)
    report = write_report(folder).read_text()
    table = report.split("## Validation by domain\n\n")[1].split("\n\n")[0].splitlines()
    assert table[2:] == ["| a\\|b | 3.500 nats/token | not measured |", "| web | 4.250 nats/token | 2.000 |"]


def test_a_run_on_one_domain_has_no_such_table(tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    assert domains_section(load_run(folder)) == []
    assert "by domain" not in write_report(folder).read_text().split("## Prepared data")[0]
