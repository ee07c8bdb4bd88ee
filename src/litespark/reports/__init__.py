"""Reads finished, running and broken runs from their folders and shows them: tables, pictures and reports.

`runs` loads run folders, `plots` draws them, `report` writes `report.md` and the comparison of several runs. Everything
comes from `run.json`, `data.json`, `metrics.jsonl`, `config.yaml` and `samples.md`; no model, data set or trainer is
needed.
"""
