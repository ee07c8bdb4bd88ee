"""`litespark bench lifecycle` from start to end: runs of `train.py`, then every model on the same held-out text.

The same command goes on after the last run that is finished.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from litespark.benchmarks.lifecycle.scores import HeldOut
from litespark.benchmarks.lifecycle.stages import REWARD, STAGES, overrides_of, read_stage
from litespark.benchmarks.session import check_measurable, provenance, record_path
from litespark.benchmarks.training.runs import Training, train
from litespark.benchmarks.training.session import seeds_of
from litespark.child_process import Ended
from litespark.device import find
from litespark.metrics.records.lifecycle import Life, LifecycleRecord, Sample
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError
from litespark.run.folder import RECORD
from litespark.run.load import load_trained
from litespark.run.record import RunRecord

_QUIET = ("callbacks.progress=false", "callbacks.report=false")
_SHOWN = 4
"""Prompts whose samples stand on the page."""


def bench_lifecycle(
    overrides: Sequence[str],
    *,
    seeds: str,
    command: Sequence[str],
    script: Path,
    output: Path,
    say: Callable[[str], None],
    launch: Callable[[Training], Ended] = train,
) -> tuple[LifecycleRecord, Path]:
    """Train all stages with each seed, and write the record.

    Args:
        overrides: of the config of every stage. script: `train.py`. `launch` is for tests.

    Raises:
        ConfigError: a stage failed; what it said is in the file that the message names.
    """
    parts = compose_parts([*overrides, f"experiment={STAGES[0].experiment}"])
    check_measurable(parts)
    device, lives, samples = find(parts.trainer.accelerator), list[Life](), list[Sample]()
    for seed in seeds_of(seeds):
        folders = _trained([*overrides, f"seed={seed}"], parts.logs.absolute() / "lifecycle", seed, script, say, launch)
        say(f"seed {seed}: every model on the same held-out text")
        given = {stage.name: [*overrides_of(stage, folders, overrides), f"seed={seed}"] for stage in STAGES}
        held_out, scores = HeldOut({name: compose_parts(words) for name, words in given.items()}, device), []
        for name, folder in folders.items():
            if name != REWARD:
                model = load_trained(folder).model.to(device)
                scores.append(held_out.scores(name, model))
                if not lives:
                    samples += held_out.samples(name, model, _SHOWN)
        lives.append(Life(seed, [read_stage(stage, folders[stage.name]) for stage in STAGES], scores))
    base = RunRecord.read(folders[STAGES[0].name] / RECORD)
    precision = base.environment.precision
    record = LifecycleRecord(
        provenance=provenance(parts, overrides, command, device, precision),  # type: ignore[arg-type]
        model=base.model.name,
        parameters=base.model.parameters,
        precision=precision,
        prompts=len(held_out.prompts.texts),
        lives=lives,
        samples=samples,
    )
    path = record_path(output, record.provenance, "bench-lifecycle", record.model, precision)
    record.write(path)
    return record, path


def _trained(
    overrides: Sequence[str],
    logs: Path,
    seed: int,
    script: Path,
    say: Callable[[str], None],
    launch: Callable[[Training], Ended],
) -> dict[str, Path]:
    """The folder of each stage's run, which is finished."""
    folders: dict[str, Path] = {}
    for stage in STAGES:
        words = (*overrides_of(stage, folders, overrides), *_QUIET)
        name = f"{stage.name}-{seed}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]}"
        say(f"seed {seed}: {stage.name}, {stage.experiment}")
        ended = launch(training := Training(script, words, logs, name))
        if ended.outcome != "finished":
            raise ConfigError(f"{stage.experiment} {ended.outcome}: {ended.error}; see {logs / f'{name}.txt'}")
        folders[stage.name] = training.folder
    return folders
