"""`litespark bench loop` for a reader: the trainer beside a bare loop, with the losses that must agree."""

from __future__ import annotations

import statistics

from litespark.metrics.records.loop import GOAL, LoopRecord
from litespark.reports.table import Column, Table, texts


def table(record: LoopRecord) -> Table:
    """A row for the trainer and one for the bare loop, and the verdict."""
    environment, model = record.environment, record.model
    about = (
        f"{model.name}, {model.parameters / 1e6:.2f} M parameters, {record.rows_per_step} rows of {model.seq_len} "
        f"tokens a step, {environment.precision}, {', '.join(device.name for device in environment.devices)}"
    )
    pairs = [record.early] if record.early == record.final else [record.early, record.final]
    rows = [
        ("trainer", statistics.median(record.trainer_step_ms), *(pair.trainer for pair in pairs)),
        ("bare loop", statistics.median(record.bare_step_ms), *(pair.bare for pair in pairs)),
    ]
    verdict = "The losses DIFFER: the two did not train alike, so their times are not compared."
    if record.losses_agree:
        verdict = (
            f"ratio {record.ratio:.3f} per step, median of {len(record.ratios)} blocks of {record.steps_per_block} "
            f"steps ({min(record.ratios):.3f} to {max(record.ratios):.3f}); goal at most {GOAL:.2f}: "
            f"{'met' if record.ratio <= GOAL else 'NOT met'}"
        )
    losses = [Column(f"loss after {pair.steps} steps", "{:.6f}".format) for pair in pairs]
    return Table([*texts("loop"), Column("ms/step", "{:.2f}".format), *losses], rows, about=[about], notes=[verdict])
