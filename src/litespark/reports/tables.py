"""The tables of a run's report, with a unit for each figure and a reason for each that is absent, in pictures too."""

from __future__ import annotations

import math
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from litespark.metrics import names
from litespark.metrics.throughput import shared_machine
from litespark.reports.quantities import ABSENT, count, duration, is_measured, joules, percent, plain, rate, scaled
from litespark.reports.table import Column, Fact, Table, facts, texts
from litespark.run.record import RunRecord
from litespark.run.record_ops import OpRecord, VerificationRecord

if TYPE_CHECKING:  # pandas is not in every start
    from litespark.reports.runs import Run

MILESTONES = 8
TOO_SHORT = "the run ended before it could be measured"
NO_VALIDATION = "no validation ran"
RANDOM_IDS = "the ids of synthetic data are random and stand for no text"
PROBE_DISTURBED = "training was faster than the matmul probe, so other programs disturbed the probe"
NATS, IN_JOULES = partial(plain, unit="nats/token"), partial(scaled, unit="J")


def headline(run: Run) -> Table:
    return facts(_headline(run.record))


def _headline(record: RunRecord) -> list[Fact]:
    quality, speed, energy, alone = record.quality, record.throughput, record.energy, record.data.unigram_bits_per_byte
    peak = f"of {scaled(speed.peak_flops, 'FLOP/s')} a device ({speed.peak_source or 'no source recorded'})"
    measured_peak = f"of {scaled(speed.measured_peak_flops, 'FLOP/s')} a device, measured here with a matmul probe"
    simulated = "; fp8 is simulated, so this is not its speed" if record.fp8 and record.fp8.simulated else ""
    metric, without, unread = no_metric(record), no_peak(record), no_energy(record)
    nats, probe = partial(plain, unit=record.loss_unit), no_measured_peak(record)
    no_memory = TOO_SHORT if speed.tokens_per_second is None else "not counted on this device"
    return [
        Fact("validation loss", quality.validation_loss, nats, beaten_by(record), NO_VALIDATION),
        Fact("train loss", quality.train_loss, nats, "last logged", "no training step was logged"),
        Fact("unigram entropy", record.data.unigram_entropy, NATS, "what token frequencies alone reach",
             f"the loss of the task {record.task} is not that of text"),
        Fact("bits per byte", quality.bits_per_byte, plain,
             f"token frequencies alone: {plain(alone)}" if is_measured(alone) else "",
             no_bits_per_byte(record)),
        *(Fact(metric.name, metric.value, plain, f"of the task {record.task}", "its divisor was 0")
          for metric in record.task_metrics),
        Fact("perplexity", quality.perplexity, plain, "exp(validation loss)", metric),
        Fact("token accuracy", quality.token_accuracy, percent, "the most likely token is the right one", metric),
        Fact("tokens/s", speed.tokens_per_second, rate,
             f"over {duration(speed.train_seconds)} of training steps{simulated}", TOO_SHORT),
        Fact("step time", speed.step_ms_median, partial(plain, unit="ms"),
             f"median; 95th percentile {plain(speed.step_ms_p95, 'ms')}", TOO_SHORT),
        Fact("waiting for data", speed.data_wait_share, percent, "of the training time", TOO_SHORT),
        Fact("MFU (C)", speed.mfu_causal, percent, peak, without),
        Fact("MFU (F)", speed.mfu_full, percent, peak, without),
        Fact("HFU (C)", speed.hfu_causal, percent, "recomputed activations counted too", without),
        Fact("MFU (C) of the measured peak", speed.mfu_measured_peak, percent, measured_peak, probe),
        Fact("peak memory", speed.peak_memory_gib, partial(plain, unit="GiB"), "on the fullest device", no_memory),
        *_of_adapter(record),
        Fact("energy per token", energy.joules_per_token_train, IN_JOULES, f"{energy.label}, training steps only",
             unread),
        Fact("all-in energy per token", energy.joules_per_token_all_in, IN_JOULES, f"{energy.label}, all phases",
             unread),
        *_of_examples(record, unread),
        Fact("skipped steps", quality.skipped_steps, count, "loss or gradient was not finite"),
    ]  # fmt: skip


def _of_examples(record: RunRecord, unread: str) -> list[Fact]:
    seen, noun = record.throughput.examples, record.example
    if seen is None or noun is None:
        return []
    joules = record.energy.joules_per_example
    whole = f"{record.energy.label}, training steps, rollouts and rewards"
    rate_of = seen / record.throughput.train_seconds if record.throughput.train_seconds else None
    return [
        Fact(f"{noun}s", seen, count, f"{rate(rate_of)} a second of training steps"),
        Fact(f"energy per {noun}", joules, partial(scaled, unit=f"J/{noun}"), whole, unread),
    ]


def _of_adapter(record: RunRecord) -> list[Fact]:
    adapter = record.adapter
    if adapter is None:
        return []
    full = f"weights, gradients and optimizer states; {scaled(adapter.full_state_bytes, 'B')} if all were trained"
    what = f"of {count(record.model.parameters)}: {adapter.kind} of rank {adapter.rank}"
    return [
        Fact("trained parameters", adapter.trained_parameters, count, what),
        Fact("memory of the training state", adapter.state_bytes, partial(scaled, unit="B"), full),
    ]


def beaten_by(record: RunRecord) -> str:
    """By how much the validation loss is below the unigram entropy, in nats and percent, or above it."""
    loss, entropy = record.quality.validation_loss, record.data.unigram_entropy
    if loss is None or not entropy:
        return ""
    side, difference = "below" if loss < entropy else "above", abs(entropy - loss)
    return f"{plain(difference, 'nats', digits=3)} ({percent(difference / entropy)}) {side} the unigram entropy"


def shared_by(record: RunRecord) -> str | None:
    speed = record.throughput
    factor = shared_machine(speed.step_ms_median, speed.step_ms_p95, speed.steps, speed.data_wait_share)
    if factor is None:
        return None
    return (
        f"The machine was shared: the 95th percentile of the step times is {plain(factor, digits=2)} times the median. "
        "Speed, utilisation and energy are those of a busy machine"
    )


def energy(run: Run) -> Table:
    """The energy of each phase with totals, method and coverage; one sentence where nothing was read."""
    energy = run.record.energy
    total, phases = energy.all_in_joules, energy.phases
    if total is None and energy.train_joules is None:
        return Table([], [], title=f"Energy was not measured: {no_energy(run.record)}.")
    parts = {
        "training steps": phases.train,
        "evaluation": phases.evaluate,
        "checkpoints": phases.checkpoint,
        "idle and start-up": phases.idle,
    }
    if phases.reference:
        parts["reference model"] = phases.reference
    if phases.rollout:
        parts |= {"rollouts": phases.rollout, "rewards": phases.reward}
    measured = [value for value in parts.values() if value is not None]
    if total and len(measured) == len(parts) and total - math.fsum(measured) > 0.001 * total:
        # steps that a crash threw away are in the all-in sum and in no phase of the surviving run
        parts["in no phase (steps lost to a crash)"] = total - math.fsum(measured)
    parts["**all-in**"] = total
    columns = [*texts("phase"), Column("energy", joules, ABSENT), Column("share of all-in", percent)]
    rows = [(name, value, value / total if value is not None and total else None) for name, value in parts.items()]
    return Table(columns, rows)


def projection(run: Run) -> Table:
    """The measured rates carried on to the token target, each absent figure with what it would need."""
    target = run.record.projection.target_tokens
    if target is None:
        return Table([], [], title="No token target was set, so nothing is projected.")
    title = f"To {count(target)} tokens, at the rates of this run:"
    return facts(_projection(run.record), "projected", "not projected", title)


def _projection(record: RunRecord) -> list[Fact]:
    projection, settings = record.projection, record.projection.settings
    currency = projection.currency or "(currency not set)"
    pue = f"PUE {settings.pue:g}" if settings.pue is not None else "PUE not set: the devices alone"
    unread = record.energy.joules_per_token_train is None
    reason = no_energy(record) if unread else "the record does not hold it"
    no_price = "price_per_kwh is not set" if settings.price_per_kwh is None else reason
    no_grid = "grid_kg_per_kwh is not set" if settings.grid_kg_per_kwh is None else reason
    return [
        Fact("time", projection.hours, lambda hours: duration(3600 * hours), "on this machine", TOO_SHORT),
        Fact("electricity", projection.kwh, partial(plain, unit="kWh"), pue, reason),
        Fact("cost", projection.cost, partial(plain, unit=currency), f"at {settings.price_per_kwh} {currency} a kWh",
             no_price),
        Fact("CO2e", projection.co2e_kg, partial(plain, unit="kg"), f"at {settings.grid_kg_per_kwh} kg a kWh of the "
             "grid", no_grid),
    ]  # fmt: skip


def absent(run: Run) -> dict[str, str]:
    """What this run did not measure, in the words of the report, each with the reason."""
    record = run.record
    projected = _projection(record) if record.projection.target_tokens is not None else []
    no_sample = "callbacks.sample_prompt is null, or the model continues no text"
    no_sample = RANDOM_IDS if record.data.name == "synthetic" else no_sample
    candidates = [
        *_headline(record),
        *(fact._replace(what=f"projected {fact.what}") for fact in projected),
        Fact("sample text", record.quality.sample, reason=no_sample),
    ]
    return {fact.what: fact.reason for fact in candidates if fact.absent}


def wall_seconds(record: RunRecord) -> float | None:
    start, end = datetime.fromisoformat(record.started), record.ended
    return None if end is None else (datetime.fromisoformat(end) - start).total_seconds()


def precision_of(record: RunRecord) -> str:
    precision, fp8 = record.environment.precision, record.fp8
    return precision if fp8 is None else f"{precision} ({fp8.recipe}{', simulated' if fp8.simulated else ''})"


def progress(run: Run) -> Table:
    """Loss beside speed and energy at a few points of the run; validation rows are always among them."""
    table = run.metrics
    if table.empty:
        return Table([], [], title="Nothing was logged.")
    chosen = {round(index * (len(table) - 1) / (MILESTONES - 1)) for index in range(MILESTONES)}
    if names.VALIDATION_LOSS in table:
        validated = table[names.VALIDATION_LOSS].notna().to_numpy().nonzero()[0].tolist()
        chosen |= set(validated[:: max(1, -(-len(validated) // MILESTONES))]) | set(validated[-1:])
    columns = {
        "step": Column("step", count),
        "tokens": Column("tokens", count),
        names.TRAIN_LOSS: Column("train loss", plain),
        names.VALIDATION_LOSS: Column("validation loss", plain),
        names.TOKENS_PER_SECOND: Column("tokens/s", rate),
        names.MFU_CAUSAL: Column("MFU (C)", percent),
        names.MFU_MEASURED_PEAK: Column("MFU (C) of measured peak", percent),
        names.JOULES_PER_TOKEN: Column("energy/token", IN_JOULES),
    }
    # what was never measured in this run is listed with its reason elsewhere
    logged = [key for key in columns if key in table and table[key].notna().any()]
    rows = table[logged].astype(object).iloc[sorted(chosen)].values.tolist()
    return Table([columns[key] for key in logged], rows)


def domains(run: Run) -> Table | None:
    """The last validation by domain; None where no domains were told apart."""
    prefix = names.of_domain(names.VALIDATION_LOSS, "")
    keys = sorted(key.removeprefix(prefix) for key in map(str, run.metrics.columns) if key.startswith(prefix))

    def last(key: str, domain: str) -> float | None:
        return next(iter(run.series(names.of_domain(key, domain)).iloc[-1:]), None)

    rows = [(name, last(names.VALIDATION_LOSS, name), last(names.VALIDATION_BITS_PER_BYTE, name)) for name in keys]
    columns = [*texts("domain"), Column("validation loss", NATS, ABSENT), Column("bits per byte", plain, ABSENT)]
    return Table(columns, rows) if rows else None


def ops(record: RunRecord) -> Table:
    rows = []
    for op in record.ops:
        used = f"{op.used} ({op.detail})" if op.detail else op.used
        ordered = sorted(op.times, key=lambda time: time.milliseconds)
        times = ", ".join(f"{time.backend} {time.milliseconds:.3g} ms" for time in ordered) or "not measured"
        rows.append((op.op, used, op.asked, _verified(op), times, op.reason or ""))
    columns = texts(
        "op", "backend", "asked for", "verification: worst distance (allowed)", "forward and backward", "why"
    )
    return Table(columns, rows, title="" if rows else "The model has no ops with backends.")


def _verified(op: OpRecord) -> str:
    cases = [case for case in op.verifications if case.backend == op.used]
    failed = [f"{case.backend} failed ({case.case})" for case in op.verifications if not case.passed]
    outcome = _worst_of(cases) if cases else "it is the reference" if op.used == "reference" else "not verified"
    missing = sorted({name for case in cases for name in case.without})
    return "; ".join([outcome, *failed, *([f"not covered: {', '.join(missing)}"] if missing else [])])


def _worst_of(cases: list[VerificationRecord]) -> str:
    """The tensor that comes nearest to its bound; casts are allowed nothing, and have nothing where they are right."""
    differences = [
        (tensor.distance / tensor.bound if tensor.bound else math.inf if tensor.distance else 0.0, tensor, case)
        for case in cases
        for tensor in case.differences
        if tensor.distance is not None
    ]
    if not differences:
        return "it raised " + (cases[0].error or "nothing and returned nothing finite")
    _, worst, case = max(differences, key=lambda difference: difference[0])
    where = f"{case.dtype}, {case.sizes}{', interpreted' if case.interpreted else ''}"
    return f"{worst.distance:.1e} ({worst.bound:.1e}) {worst.tensor}, {where}"


# ---------------------------------------------------------------- why a figure is absent


def no_peak(record: RunRecord) -> str:
    speed = record.throughput
    if speed.tokens_per_second is None:
        return TOO_SHORT
    if speed.peak_flops is not None:
        stated = " (metrics.peak_flops is too low)" if "metrics.peak_flops" in (speed.peak_source or "") else ""
        return f"it came out above what the device can do{stated}, so it is withdrawn"
    devices = ", ".join(dict.fromkeys(device.name for device in record.environment.devices)) or "this device"
    return f"no dense peak is known for {devices}; metrics.peak_flops sets one"


def no_measured_peak(record: RunRecord) -> str:
    if record.throughput.measured_peak_flops is None:
        return "no matmul peak was measured"
    return TOO_SHORT if record.throughput.tokens_per_second is None else PROBE_DISTURBED


def no_bits_per_byte(record: RunRecord) -> str:
    data = record.data
    # `data=synthetic` calls itself so
    if data.unigram_entropy is not None and data.name == "synthetic" and data.unigram_bits_per_byte is None:
        return RANDOM_IDS
    return no_metric(record, "the byte lengths of the tokens are not known")


def no_metric(record: RunRecord, otherwise: str = NO_VALIDATION) -> str:
    if record.quality.validation_loss is None:
        return NO_VALIDATION
    return otherwise if record.data.unigram_entropy is not None else f"the task {record.task} does not measure it"


def no_energy(record: RunRecord) -> str:
    return record.energy.reason or "the record gives no reason"


def coverage(fraction: float | None) -> str:
    if fraction is None:
        return "which devices were read is not recorded"
    return "all devices in use were read" if fraction == 1 else f"{percent(fraction)} of the devices in use were read"
