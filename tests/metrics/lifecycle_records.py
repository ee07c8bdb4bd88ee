"""A record of the life of a model, made by hand."""

from dataclasses import replace

from litespark.metrics.records.lifecycle import Life, LifecycleRecord, Sample, Scores, Stage
from tests.metrics.records.hand_made import provenance

DPO = Stage("dpo", "sft", "bf16", "loss", 0.69, 0.5, "lower", 10, 4000, 320, "pair", 20.0, 200.0, None, 0.3, None, None,
            None, "no counter")  # fmt: skip


def lifecycle_record() -> LifecycleRecord:
    """Of two seeds."""
    scores = Scores("dpo", 1.9, 3.7, 0.8, 0.1, 0.2, 50.0)
    lives = [Life(seed, [replace(DPO, after=0.4 + seed / 5)], [scores]) for seed in (1, 2)]
    return LifecycleRecord(provenance(), "tiny", 1000, "fp32", 64, lives, [Sample("# f\n", "dpo", "```")])
