"""Run folders as a training run writes them, made without training: schema-true and deterministic."""

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from litespark.metrics import names
from litespark.metrics.records.origin import DeviceRecord
from litespark.run.record import (
    DataRecord,
    EnergyRecord,
    ModelRecord,
    PhaseJoules,
    ProjectionRecord,
    ProjectionSettings,
    QualityRecord,
    RunRecord,
    SegmentRecord,
    ThroughputRecord,
)
from tests.metrics.records.hand_made import environment, make_record

START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
TOKENS_A_STEP = 8192
NO_COUNTER = "no NVML device and /sys/class/powercap is not readable"
A_CPU = "A CPU, 2 cores"


def write_run(
    folder: Path, *, steps=200, learning_rate=1e-3, seed=1, gpu=True, status="finished", entropy=6.2, name=None
) -> Path:
    """Write a whole run folder; `gpu=False` is a machine without a known peak, energy counter or memory statistics."""
    folder.mkdir(parents=True)
    name = name or folder.name
    rows = metric_rows(steps, learning_rate, seed, gpu)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": name,
        "seed": seed,
        "model": {"name": "tiny", "hidden_size": 192},
        "optim": {"lr": learning_rate, "betas": [0.9, 0.95]},
        "paths": {"logs": str(folder)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "samples.md").write_text("# Step 200\n\n```\ndef read(self):\n```\n")
    run_record(name, rows, steps, seed, gpu, status, entropy).write(folder / "run.json")
    return folder


def metric_rows(steps: int, learning_rate: float, seed: int, gpu: bool) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    interval = max(1, steps // 100)
    for step in range(interval, steps + 1, interval):
        tokens, progress = step * TOKENS_A_STEP, step / steps
        falling = 6.4 * math.exp(-6 * progress * math.sqrt(learning_rate / 1e-3))
        loss = 2.6 + falling + 0.06 * generator.standard_normal()
        speed = 33_000 * (0.9 if step == interval else 1) * (1 + 0.02 * generator.standard_normal())
        median = 1000 * TOKENS_A_STEP / speed
        at = {"step": step, names.PROGRESS_TOKENS: tokens, "time": (START + timedelta(seconds=step / 4)).isoformat()}
        row = at | {
            names.PROGRESS_STEP: step, names.TRAIN_LOSS: loss, names.GRADIENT_NORM: 1.2, names.SKIPPED_STEPS: 0,
            names.LEARNING_RATE: learning_rate * (1 - 0.9 * progress), names.TOKENS_PER_SECOND: speed,
            names.STEP_MS_MEDIAN: median, names.STEP_MS_P95: median * (1.05 + 0.1 * generator.random()),
            names.DATA_WAIT_SHARE: 0.01, names.MFU_MEASURED_PEAK: speed / 42_000,
            names.MFU_CAUSAL: speed / 50_500 if gpu else None,
        }  # fmt: skip
        if gpu:
            row |= {
                names.MFU_FULL: speed / 45_500,
                names.HFU_CAUSAL: speed / 38_000,
                names.PEAK_MEMORY_GIB: 61.4,
                names.JOULES_PER_TOKEN: 690 / speed,
                names.POWER_WATTS: 690.0,
                names.TRAIN_JOULES: 690 / 33_000 * tokens,
                names.ALL_IN_JOULES: 690 / 33_000 * tokens * 1.08 + 900,
            }
        rows.append(row)
        if step % (steps // 4) == 0:
            nats = loss + 0.08
            rows.append(
                at
                | {
                    names.VALIDATION_LOSS: nats,
                    names.VALIDATION_PERPLEXITY: math.exp(nats),
                    names.VALIDATION_BITS_PER_BYTE: nats / math.log(2) / 3.1,
                    names.VALIDATION_TOKEN_ACCURACY: 0.41,
                }
            )
    return rows


def run_record(name, rows, steps, seed, gpu, status, entropy) -> RunRecord:
    seconds, tokens = steps / 4, steps * TOKENS_A_STEP
    ended = (START + timedelta(seconds=seconds + 12)).isoformat()
    validation = [row for row in rows if names.VALIDATION_LOSS in row][-1]
    train_joules = 690 / 33_000 * tokens
    all_in = train_joules * 1.08 + 900

    def on_gpu(value):
        return value if gpu else None

    device = DeviceRecord("NVIDIA H200", "9f8e7d", 700.0) if gpu else DeviceRecord(A_CPU)
    energy = EnergyRecord(label="energy", reason=NO_COUNTER, coverage=0.0)
    if gpu:
        energy = EnergyRecord(
            label="GPU board energy", method="NVML total energy counter", coverage=1.0, train_joules=train_joules,
            all_in_joules=all_in, phases=PhaseJoules(train_joules, train_joules * 0.06, train_joules * 0.02, 900.0),
            joules_per_token_train=train_joules / tokens, joules_per_token_all_in=all_in / tokens,
            average_power_watts=690.0, tokens_per_second_per_watt=47.8, dropped_readings=0,
        )  # fmt: skip
    return make_record(
        command=["train.py", f"seed={seed}"], git_commit="0123456789abcdef0123456789abcdef01234567",
        environment=environment(precision="bf16-mixed" if gpu else "32-true", devices=[device]),
        name=name, seed=seed, status=status, ended=ended if status != "running" else None,
        error="loss was not finite 10 steps in a row" if status == "failed" else None,
        model=ModelRecord("tiny", 1_904_256, 1_511_040, 9.4e6, 1.02e7, 512),
        data=DataRecord("python-stdlib", "a1b2c3d4", 2048, 12_345_678, 123_456, entropy, entropy / math.log(2) / 3.1),
        throughput=ThroughputRecord(
            tokens=tokens, steps=steps, train_seconds=seconds, tokens_per_second=tokens / seconds,
            step_ms_median=248.3, step_ms_p95=267.9, data_wait_share=0.0104, mfu_causal=on_gpu(0.6534),
            mfu_full=on_gpu(0.7253), hfu_causal=on_gpu(0.8684), mfu_measured_peak=0.7857,
            peak_flops=on_gpu(989.5e12), peak_source=on_gpu("NVIDIA H200 data sheet, dense bf16"),
            measured_peak_flops=790e12 if gpu else 48e9, peak_memory_gib=on_gpu(61.4),
        ),
        energy=energy,
        projection=ProjectionRecord(
            target_tokens=300_000_000_000, hours=300e9 / 33_000 / 3600, kwh=on_gpu(300e9 * 0.0209 / 3.6e6),
            co2e_kg=on_gpu(300e9 * 0.0209 / 3.6e6 * 0.38 * 1.2), settings=ProjectionSettings(None, 0.38, 1.2),
        ),
        quality=QualityRecord(
            train_loss=next(row[names.TRAIN_LOSS] for row in reversed(rows) if names.TRAIN_LOSS in row),
            validation_loss=validation[names.VALIDATION_LOSS], perplexity=validation[names.VALIDATION_PERPLEXITY],
            bits_per_byte=validation[names.VALIDATION_BITS_PER_BYTE], token_accuracy=0.41,
            sample="def read(self, size=-1):\n    return self.stream.read(size)\n",
        ),
        segments=[SegmentRecord(START.isoformat(), 0, ended, steps, "start")],
    )  # fmt: skip


def strip(folder: Path) -> Path:
    """Turn a run folder into that of a run that ended before it measured anything."""
    empty = dataclasses.replace(
        RunRecord.read(folder / "run.json"),
        status="failed",
        error="out of memory in the first step",
        throughput=ThroughputRecord(),
        energy=EnergyRecord(reason="the run ended before the first reading"),
        projection=ProjectionRecord(),
        quality=QualityRecord(),
    )
    empty.write(folder / "run.json")
    for name in ("metrics.jsonl", "config.yaml", "samples.md"):
        (folder / name).unlink()
    return folder
