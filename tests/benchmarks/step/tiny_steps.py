"""Requests and configs for steps that take milliseconds on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litespark.benchmarks.step import process
from litespark.benchmarks.step.request import Request
from litespark.metrics.records.step import RoundRecord
from litespark.run.config import Parts
from tests.run.composed import parts as composed

# few rows, seen again and again at a high rate: losses fall by a third, so that a wrong step shows in them
TINY = (
    "data.seq_len=32",
    "data.micro_batch_size=2",
    "data.training_sequences=4",
    "data.document_length=9",
    "data.document_mask=false",
    "trainer.global_batch_size=4",
    "model.hidden_size=64",
    "model.num_layers=2",
    "model.num_heads=4",
    "model.num_kv_heads=2",
    "model.intermediate_size=96",
    "model.vocab_size=61",
    "metrics.probe_seconds=0",
    "optim.lr=0.01",
)


def parts(folder: Path, *overrides: str) -> Parts:
    return composed(*TINY, f"paths.logs={folder}", *overrides)


def request(folder: Path, variant: str, kind: Any = "huggingface", *overrides: str, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "settings": [],
        "recompute": None,
        "layers": None,
        "warmup_steps": 2,
        "steps": 4,
        "loss_rows": 3,
        "round": 0,
        "position": 1,
        "overrides": ["data=synthetic", "trainer.accelerator=cpu", *TINY, *overrides],
        "folder": str(folder),
    }
    return Request(variant, kind, **(values | changes))


def measured(folder: Path, variant: str, kind: Any = "huggingface", *overrides: str, **changes: Any) -> RoundRecord:
    return process.measured(parts(folder, *overrides), request(folder, variant, kind, *overrides, **changes))
