"""`litespark bench tasks` from start to end: fresh processes of variants that take turns, saved one by one."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from litespark.benchmarks.session import begin, check_measurable, check_plain, provenance, record_path, turns
from litespark.benchmarks.tasks.model import drawn_model
from litespark.benchmarks.tasks.process import Request
from litespark.benchmarks.tasks.variants import OF_TASK, Variant, chosen, why_not
from litespark.child_process import ChildError, ask, call
from litespark.config.settings import settings
from litespark.data.modules import build_data_module
from litespark.device import find
from litespark.metrics.environment import version_of
from litespark.metrics.records.base import RecordError, parse
from litespark.metrics.records.tasks import TaskRound, TasksRecord, TaskVariant
from litespark.override_text import hydra_text
from litespark.ranges import Minutes, Repeats, Seconds
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts
from litespark.run.measured_precision import precision_of

MEASURE = call("litespark.benchmarks.tasks.process:measure")
_MODEL = "model=huggingface"
_DEFAULTS = (
    *("~experiment", "data.seq_len=512", "data.micro_batch_size=4", "trainer.global_batch_size=4"),
    *("optim.lr=1e-3", "optim.weight_decay=0.0", "budget.tokens=1_000_000", "precision=fp32"),
)


@settings("--", options={"warmup_steps": "--warmup", "process_timeout": "process_timeout"})
class TaskSettings:
    """How it is run; a process takes `steps` steps after `warmup_steps` that are not counted."""

    rounds: Repeats = 3
    warmup_steps: Repeats = 1
    steps: Repeats = 4
    minutes: Minutes | None = None
    process_timeout: Seconds = 600.0


def bench_tasks(
    overrides: Sequence[str],
    settings: TaskSettings,
    *,
    variants: Sequence[str] = (),
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    program: Sequence[str] = MEASURE,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[TasksRecord, Path]:
    """Measure, and write the record after every process, as DEVICE/DATE_bench-tasks_MODEL_PRECISION.json in `output`.

    Args:
        overrides: of all variants, over the defaults of this benchmark; without `model=huggingface model.path=FOLDER` a
            small model is drawn.
        variants: their names; none: all. command: to reproduce it. program, clock: for tests.
    """
    began, asked = clock(), chosen(variants)
    check_plain(overrides)
    given = [word.partition("=")[2] for word in overrides if word.startswith("model.path=")]
    folder = given[-1] if given else str(drawn_model(overrides))
    model = [] if given else [f"model.path={hydra_text(folder)}"]
    rest = [word for word in overrides if word != _MODEL]
    of_variant = {one.name: [_MODEL, *OF_TASK[one.task], *model, *_DEFAULTS, *rest, *one.settings] for one in asked}
    say("preparing examples")
    parts = [_prepared(of_variant[one.name], one) for one in asked]
    new = _described(parts[0], asked, overrides, settings, command)
    path = record_path(output, new.provenance, "bench-tasks", new.model, new.precision)
    record, path = begin(
        new, path, done=lambda old: f"{sum(len(one.measured) for one in old.variants)} processes", say=say
    )
    failed: set[str] = set()
    longest: dict[str, float] = {}
    able = [variant for variant in record.variants if variant.reason is None]
    with tempfile.TemporaryDirectory() as scratch:
        for number, position, variant in turns(able, record.rounds):
            if variant.name in failed or any(done.round == number for done in variant.measured):
                continue
            expected = longest.get(variant.name) or max(longest.values(), default=0.0)
            if longest and settings.minutes and clock() + expected >= began + 60 * settings.minutes:
                say(f"stopped before {variant.name} of round {number + 1}: the same command continues")
                break
            say(f"{variant.name}, round {number + 1} of {record.rounds}")
            start = clock()
            request = Request(variant.name, of_variant[variant.name], folder, settings.warmup_steps, settings.steps,
                              number, position)  # fmt: skip
            answer = _answer(request, Path(scratch), program, settings.process_timeout)
            longest[variant.name] = clock() - start
            variant.rounds.append(answer)
            try:
                record.check()
            except RecordError as error:  # a record that cannot be read again would be lost with all that it holds
                variant.rounds[-1] = answer = TaskRound(number, position, "failed", str(error))
            if answer.outcome == "failed":
                failed.add(variant.name)
                say(f"{variant.name}: failed: {answer.error}")
            record.write(path)
    return record, path


def _prepared(overrides: list[str], variant: Variant) -> Parts:
    """The config of a variant, whose examples are prepared now, and not in the first process that reads them."""
    parts = compose_parts(overrides)
    check_measurable(parts)
    if parts.trainer.global_batch_size != parts.data.micro_batch_size:
        raise ConfigError(
            f"trainer.global_batch_size={parts.trainer.global_batch_size}: got data.micro_batch_size="
            f"{parts.data.micro_batch_size}, expected the same: a step of this benchmark is one micro-batch"
        )
    build_data_module(parts.data, seed=parts.seed)
    return parts


def _described(
    parts: Parts, variants: Sequence[Variant], overrides: Sequence[str], settings: TaskSettings, command: Sequence[str]
) -> TasksRecord:
    device = find(parts.trainer.accelerator)
    precision = precision_of(parts, device)
    return TasksRecord(
        provenance=provenance(parts, overrides, command, device, precision),
        model=parts.model.name,
        parameters=parts.model.parameter_count(),
        seq_len=parts.data.seq_len,
        micro_batch_size=parts.data.micro_batch_size,
        warmup_steps=settings.warmup_steps,
        steps=settings.steps,
        rounds=settings.rounds,
        precision=precision,
        threads=torch.get_num_threads(),
        trl=version_of("trl"),
        transformers=version_of("transformers"),
        variants=[
            TaskVariant(one.name, one.task, one.trainer, list(one.settings), one.about, why_not(one))
            for one in variants
        ],
    )


def _answer(request: Request, scratch: Path, program: Sequence[str], seconds: float) -> TaskRound:
    folder = scratch / f"round-{request.round}-{request.variant}"
    try:
        answer: TaskRound = parse(TaskRound, ask(program, asdict(request), folder, seconds=seconds))
    except (ChildError, RecordError) as error:
        return TaskRound(request.round, request.position, "failed", str(error))
    return answer
