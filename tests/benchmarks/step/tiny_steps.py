"""Requests and configs for steps that take milliseconds on a CPU."""

from pathlib import Path
from typing import Any

from litespark.benchmarks.step import process
from litespark.benchmarks.step.begin import StepSettings
from litespark.benchmarks.step.request import Request
from litespark.metrics.records.step import RoundRecord
from litespark.run.config import Parts
from tests.run.composed import parts as composed

# few sequences, seen again and again at a high rate: losses fall by a third, so that a wrong step shows in them
TINY = (
    *"data.seq_len=32 data.micro_batch_size=2 data.training_sequences=4 data.document_length=9".split(),
    *"data.document_mask=false trainer.global_batch_size=4 metrics.probe_seconds=0 optim.lr=0.01".split(),
    *"model.hidden_size=64 model.num_layers=2 model.num_heads=4 model.num_kv_heads=2".split(),
    *"model.intermediate_size=96 model.vocab_size=61".split(),
)

# for sessions whose processes are not started
SETTINGS = StepSettings(rounds=3, warmup_steps=1, steps=2, loss_sequences=2)
SESSION = ["model=tiny", "data=synthetic", "data.seq_len=16", "data.micro_batch_size=2",
           "trainer.global_batch_size=4", "trainer.accelerator=cpu", "precision=fp32"]  # fmt: skip


def parts(folder: Path, *overrides: str) -> Parts:
    return composed(*TINY, f"paths.logs={folder}", *overrides)


def request(folder: Path, variant: str, kind: Any = "huggingface", *overrides: str, **changes: Any) -> Request:
    words = ["data=synthetic", "trainer.accelerator=cpu", *TINY, *overrides]
    values: dict[str, Any] = {"recompute": None, "layers": None, "warmup_steps": 2, "steps": 4, "loss_sequences": 3}
    values |= {"overrides": words, "position": 1, "folder": str(folder)}
    return Request(variant, kind, **(values | changes))


def measured(folder: Path, variant: str, kind: Any = "huggingface", *overrides: str, **changes: Any) -> RoundRecord:
    return process.measured(parts(folder, *overrides), request(folder, variant, kind, *overrides, **changes))
