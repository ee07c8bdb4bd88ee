"""Records of `litespark bench tasks` with figures that are easy to work out by hand."""

from __future__ import annotations

from litespark.metrics.records.tasks import TaskName, TaskRound, TasksRecord, TaskVariant, Trainer
from tests.metrics.records.hand_made import provenance

# variant: task, trainer, settings, seconds of a step in each round, places of all counted steps, losses
VARIANTS: dict[str, tuple[TaskName, Trainer, list[str], list[float], int, list[float]]] = {
    "dpo": ("dpo", "litespark", [], [1.0, 2.0], 1100, [0.693, 0.5, 0.4]),
    "dpo_trl": ("dpo", "trl", [], [2.0, 3.0], 2200, [0.693, 0.501, 0.401]),
    "sft": ("sft", "litespark", [], [1.0, 1.0], 1000, [5.0, 4.0, 3.0]),
    "sft_lora": ("sft", "litespark", ["adapter=lora"], [0.5, 0.5], 1000, [5.0, 4.9, 4.8]),
    "sft_trl": ("sft", "trl", [], [1.2, 1.2], 1000, [5.0, 4.5, 4.0]),
}


def task_round(name: str, number: int, position: int = 0) -> TaskRound:
    """Two counted steps of 1000 tokens together, in 10 examples."""
    task, trainer, settings, seconds, places, losses = VARIANTS[name]
    return TaskRound(
        number,
        position,
        "measured",
        seconds=[seconds[number]] * 2,
        examples=10,
        tokens=1000,
        places=places,
        losses=losses,
        examples_hash=f"of {task}",
        memory_bytes=200 if trainer == "trl" else 100,
        peak_bytes=1000,
        optimizer_bytes=5 if settings else 50,
        joules_reason="no counter",
    )


def tasks_record(*names: str, rounds: int = 2) -> TasksRecord:
    variants = [
        TaskVariant(name, VARIANTS[name][0], VARIANTS[name][1], VARIANTS[name][2], f"about {name}")
        for name in names or VARIANTS
    ]
    for variant in variants:
        variant.rounds.extend(task_round(variant.name, number) for number in range(rounds))
    return TasksRecord(
        provenance=provenance(), model="drawn", parameters=9, seq_len=64, micro_batch_size=4, warmup_steps=1, steps=2,
        rounds=2, precision="fp32", threads=2, trl="1.16.0", transformers=None, variants=variants,
    )  # fmt: skip
