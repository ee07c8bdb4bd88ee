"""What follows the last step: a validation, a sample, the final figures, TensorBoard's HParams, the report."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from litespark.atomic import write_whole
from litespark.config.groups import compared
from litespark.config.loop import ProjectionConfig
from litespark.data.stream.modules import PreparedDataModule
from litespark.data.tokenizer import Tokenizer
from litespark.metrics import names
from litespark.metrics.records.base import finite_or_none
from litespark.models.generate import CANNOT, generate
from litespark.models.spec import Generates
from litespark.reports.tables import no_bits_per_byte, shared_by
from litespark.run.build import Run
from litespark.run.config import Parts
from litespark.run.folder import SAMPLES
from litespark.run.record import ProjectionRecord, ProjectionSettings, Status
from litespark.tasks.task import RollsOut

log = logging.getLogger(__name__)

_JOULES_PER_KWH = 3.6e6

# the curves whose last values stand beside the settings in the HParams of TensorBoard
RESULTS = (
    *(names.VALIDATION_LOSS, names.VALIDATION_BITS_PER_BYTE, names.TRAIN_LOSS, names.TOKENS_PER_SECOND),
    *(names.MFU_CAUSAL, names.MFU_MEASURED_PEAK, names.JOULES_PER_TOKEN),
)


def finish(parts: Parts, run: Run) -> None:
    """Validate, generate a sample, complete the record, write the report; every rank calls it."""
    run.recorder.attach(run.module)
    for reference in run.reference if run.module.reference is None else []:  # a resume without a step left
        reference.train_started(run.trainer, run.module)
    if run.module.validated_at != run.module.steps_taken:
        run.validation.validate(run.trainer, run.module)
    run.quality.train_started(run.trainer, run.module)  # nor begun this
    prompt, sample = parts.callbacks.sample_prompt, None
    if prompt is not None and isinstance(run.data, PreparedDataModule):
        sample = _sample(parts, run, prompt, Tokenizer.load(run.data.folder))
    run.energy.note_totals(run.module)  # no checkpoint holds what this took, and the run may be resumed
    projection = parts.metrics.projection
    projected = project(
        projection.tokens or run.module.planned_tokens,
        tokens_per_second=run.recorder.throughput.summary().tokens_per_second,
        joules_per_token=run.energy.totals.joules_per_token_train,
        stated=projection,
    )
    run.recorder.record.take_end(sample, projected)
    close(run, "finished")
    if not run.module.mesh.is_first:
        return
    # the last command is what a resume changed, if there was one
    said = run.recorder.record.segments[-1].command[2:]
    write_hparams(run.tensorboard, settings_shown(parts.resolved, said), run.metrics.latest)
    for logger in run.trainer.loggers:
        logger.finalize("success")
    report = None
    try:
        if parts.callbacks.report:
            from litespark.reports.report import write_report  # pandas is not in every start

            report = write_report(run.folder)
    except (OSError, ValueError, RuntimeError) as error:  # the run is finished, and stays so
        log.error("no report: %s. `litespark report %s` makes it again", error, run.folder)
    log.info("%s", _closing_words(run, report))


def close(run: Run, status: Status, error: str | None = None) -> None:
    if isinstance(run.module.task, RollsOut):
        run.module.task.close()
    run.recorder.throughput.phases.enter("idle")
    run.recorder.update(status, error)
    run.metrics.finalize(status)


def _sample(parts: Parts, run: Run, prompt: str, tokenizer: Tokenizer) -> str | None:
    """How the model continues `prompt`; every rank generates the same, as sharded weights need all of them."""
    model, longest = run.module.model, parts.model.max_seq_len
    assert model is not None
    reason = None if isinstance(model, Generates) else f"model={parts.model.name}, {CANNOT}"
    if run.module.mesh.roles.tensor > 1:
        reason = f"strategy={parts.strategy.name}, whose ranks share sequences; litespark generate makes one"
    if reason is not None:
        if run.module.mesh.is_first:
            log.info("no sample of text: got %s; set callbacks.sample_prompt=null", reason)
        return None
    assert isinstance(model, Generates)
    tokens = min(parts.callbacks.sample_tokens, longest - 1)
    ids = tokenizer.encode_prompt(prompt)[: longest - tokens]
    with torch.no_grad(), run.trainer.precision_plugin.forward_context():
        result = generate(
            model,
            torch.tensor([ids], device=run.module.device),
            tokens,
            temperature=parts.callbacks.sample_temperature,
            top_p=0.95,
            eos_id=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
            seed=parts.seed,
        )
    sample = tokenizer.decode(result[0].tolist())
    if run.module.mesh.is_first:
        fenced = "\n".join(f"    {line}" for line in sample.splitlines())
        write_whole(run.folder / SAMPLES, f"After step {run.module.steps_taken}:\n\n{fenced}\n")
    return sample


def _closing_words(run: Run, report: Path | None) -> str:
    record, latest = run.recorder.record, run.metrics.latest
    loss, entropy = latest.get(names.VALIDATION_LOSS), record.data.unigram_entropy
    words = []
    if loss is not None:
        compared = "" if entropy is None else f" (unigram entropy {entropy:.3f})"
        words.append(f"validation loss {loss:.3f} {record.loss_unit}{compared}")
    words += [f"{metric.name} {metric.value:.3f}" for metric in record.task_metrics if metric.value is not None]
    if record.quality.bits_per_byte is not None:
        words.append(f"{record.quality.bits_per_byte:.3f} bits/byte")
    elif loss is not None:
        words.append(f"bits/byte: none, {no_bits_per_byte(record)}")
    if (target := record.target) is not None:
        reached = target.reached
        outcome = f"reached at step {reached.step}: {reached.tokens:,} tokens" if reached else "not reached"
        words.append(f"target of {target.bits_per_byte:g} bits/byte {outcome}")
    if record.quality.sample:
        words.append("sample:\n" + "\n".join(f"    {line}" for line in record.quality.sample.splitlines()))
    if shared := shared_by(record):
        words.append(f"{shared}.")
    words.append(f"report: {report}" if report else f"run: {run.folder}")
    return "\n".join(filter(None, words))


def settings_shown(resolved: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The settings of a run by `group/key`, names and folders left out: what `overrides` set, then all others."""
    plain = {
        key: value
        for key, value in compared(dict(resolved)).items()
        if not key.endswith("_target_") and value not in (None, {}, [])
    }
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    return {
        key.replace(".", "/"): plain[key] if isinstance(plain[key], bool | int | float | str) else str(plain[key])
        for key in dict.fromkeys((*given, *plain))
        if key in plain
    }


def write_hparams(logger: TensorBoardLogger, shown: dict[str, Any], logged: Iterable[str]) -> None:
    """Write the settings; the results beside them are the last values of the curves that are there already."""
    logger.hparams.update(shown)
    # not through the logger, which would add a single point to each curve
    for summary in hparams(shown, {tag: 0.0 for tag in RESULTS if tag in set(logged)}):
        logger.experiment._get_file_writer().add_summary(summary)


def project(
    target_tokens: int | None,
    *,
    tokens_per_second: float | None,
    joules_per_token: float | None,
    stated: ProjectionConfig,
) -> ProjectionRecord:
    """What the whole of ``target_tokens`` takes at the measured rates of all devices; without it nothing.

    ``kwh`` is what the metered devices use. Cost and CO2e are of the energy that the building draws, kWh × PUE, and
    need the PUE to be stated (1 where the meter sees all there is to pay). Price, grid and PUE have no default: a
    guessed grid makes a precise-looking falsehood.
    """
    settings, currency = ProjectionSettings(stated.price_per_kwh, stated.grid_kg_per_kwh, stated.pue), stated.currency
    if target_tokens is None:
        return ProjectionRecord(currency=currency, settings=settings)
    rate = finite_or_none(tokens_per_second)
    energy = finite_or_none(joules_per_token)
    hours = target_tokens / rate / 3600 if rate else None
    kwh = target_tokens * energy / _JOULES_PER_KWH if energy is not None else None
    drawn = kwh * settings.pue if kwh is not None and settings.pue is not None else None
    return ProjectionRecord(
        target_tokens=target_tokens,
        hours=hours,
        kwh=kwh,
        cost=_times(drawn, settings.price_per_kwh),
        currency=currency,
        co2e_kg=_times(drawn, settings.grid_kg_per_kwh),
        settings=settings,
    )


def _times(energy: float | None, factor: float | None) -> float | None:
    return energy * factor if energy is not None and factor is not None else None
