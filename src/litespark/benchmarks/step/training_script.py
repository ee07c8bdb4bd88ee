"""train.py as a variant: the program itself, run on the same steps, and what its own records say of them.

A run logs its speed by windows, which close at the log interval with a synchronisation; the time of each counted step
is the mean of its window, so their sum is the time that train.py really took.
"""

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.stepping import counted_joules
from litespark.child_process import PYTHON, run
from litespark.data.modules import build_data_module
from litespark.metrics import names
from litespark.metrics.nvml import LABEL as GPU_LABEL
from litespark.metrics.records.step import RoundRecord
from litespark.override_text import hydra_text
from litespark.run.checkout import QUIET, repository
from litespark.run.config import Parts
from litespark.run.folder import RECORD
from litespark.run.metric_rows import read_metrics
from litespark.run.record import RunRecord
from litespark.training.budget import steps_alone

_NAME = "bench"


def run_training_script(parts: Parts, request: Request, script: Path | None = None) -> RoundRecord:
    """Run train.py for the steps of `request` and read its records; `parts` are the config with what it changes.

    Raises:
        RuntimeError: train.py failed; with the last line that it printed.
        ValueError: it took other steps than it was asked for.
    """
    window = window_steps(parts.trainer.log_every, request.warmup_steps, request.steps)
    # below the benchmark's own folder, so that a killed benchmark leaves nothing elsewhere
    with tempfile.TemporaryDirectory(prefix="train-", dir=request.folder or None) as temporary:
        words = (*request.overrides, *script_overrides(parts, request, window, Path(temporary)))
        command = [*PYTHON, str(script or repository() / "train.py"), *words]
        ended = run(command, Path(temporary) / "printed")
        folder = Path(temporary) / "runs" / _NAME
        if not (folder / RECORD).is_file():
            raise RuntimeError(f"train.py had no first step: {ended.error or ended.outcome}")
        record = RunRecord.read(folder / RECORD)
        if record.status != "finished":
            # an allocator's message is looked for in it
            raise RuntimeError(record.error or f"train.py, {record.status}, {ended.error}")
        rows = read_metrics(folder)
    return read_run(parts, request, window, record, rows)


def window_steps(log_every: int, warmup: int, steps: int) -> int:
    """The longest window, of at most `log_every` steps, of which warm-up and counted steps both hold whole numbers."""
    common = math.gcd(warmup, steps)
    return max(length for length in range(1, min(log_every, common) + 1) if common % length == 0)


def script_overrides(parts: Parts, request: Request, window: int, logs: Path) -> list[str]:
    """What the benchmark gives train.py after the user's overrides."""
    values = {
        "name": _NAME,
        "paths.logs": hydra_text(str(logs)),
        "model.num_layers": parts.llama.num_layers,
        "recompute.mode": parts.recompute,
        "data.validation_sequences": request.loss_sequences,
        "trainer.validate_every": "null",
        "trainer.log_every": window,
        "metrics.warmup_steps": request.warmup_steps,
        "metrics.probe_seconds": 0,
    }
    budget = steps_alone(request.warmup_steps + request.steps)
    return [*(f"{key}={value}" for key, value in values.items()), *budget, *QUIET]


def read_run(
    parts: Parts, request: Request, window: int, run: RunRecord, rows: Sequence[dict[str, Any]]
) -> RoundRecord:
    """The answer of a finished run; ValueError where its windows are not those of the asked steps."""
    closed = [row for row in rows if names.TOKENS_PER_SECOND in row]
    ends = [row["step"] for row in closed]
    total = request.warmup_steps + request.steps
    if ends != list(range(window, total + 1, window)):
        raise ValueError(f"train.py: got windows that end at the steps {ends}, expected every {window} up to {total}")
    if run.quality.validation_loss is None:
        raise ValueError("train.py: got no validation loss, expected one after the last step")
    step_ms: list[float] = []
    tokens_before = 0
    for row in closed:
        tokens = row[names.PROGRESS_TOKENS] - tokens_before
        tokens_before = row[names.PROGRESS_TOKENS]
        if row["step"] > request.warmup_steps:
            step_ms += [1e3 * tokens / row[names.TOKENS_PER_SECOND] / window] * window
    # the batches of the counted steps, as train.py was given them
    accumulate = parts.trainer.accumulate(parts.data.micro_batch_size, 1)
    loader = build_data_module(parts.data, seed=parts.seed).train_dataloader()
    batches = list(itertools.islice(loader, request.warmup_steps * accumulate, total * accumulate))
    joules = {row["step"]: row.get(names.TRAIN_JOULES) for row in closed}
    before, after = joules.get(request.warmup_steps), joules[total]
    energy = counted_joules(
        None if before is None or after is None else after - before,
        method=run.energy.method,
        absent=run.energy.reason or "train.py did not read the counter at both ends of the counted steps",
        on_gpu=run.energy.label == GPU_LABEL,
        seconds=sum(step_ms) / 1e3,
        steps=request.steps,
        dropped=run.energy.dropped_readings,
    )
    peak = run.throughput.peak_memory_gib
    return request.record(
        "measured",
        parts.recompute,
        step_ms=step_ms,
        tokens=sum(batch.token_count for batch in batches),
        attention_pairs=sum(batch.attention_pairs for batch in batches),
        peak_memory_mib=None if peak is None else 1024 * peak,
        train_loss=[row[names.TRAIN_LOSS] for row in closed] if window == 1 else [],
        loss=run.quality.validation_loss,
        detail=f"windows of {window} steps; ops: " + ", ".join(f"{op.op} {op.used}" for op in run.ops),
        **energy,
    )
