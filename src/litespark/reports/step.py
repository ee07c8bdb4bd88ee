"""What `litespark bench step` found: a row for each variant, ours over the baselines, and whether train.py keeps up."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from litespark.metrics.records.step import BASELINES, StepRecord
from litespark.metrics.step_round import Interval
from litespark.reports.quantities import duration, percent, plain, rate, scaled, short
from litespark.reports.step_rows import LOSS_BOUND, Row, failures, ratio, ratios, rows
from litespark.reports.table import Absent, Column, Table, texts
from litespark.reports.tables import PROBE_DISTURBED

# of the benchmark's own tokens/s that train.py has to reach
TRAINER_GOAL = 0.97
TIMES: Callable[[float], str] = "{:.3f}".format
_NO_PEAK = "no peak is known for this device; set metrics.peak_flops to its dense bf16 FLOP/s"
_NO_ROOFLINE = "it is AdamW's alone, and needs the rates of the precision"


class Goal(NamedTuple):
    goal: str
    value: Interval | None
    verdict: str
    reason: str


def trainer_goal(record: StepRecord) -> Goal:
    """Whether train.py keeps up with the benchmark's own loop over the same parts."""
    goal = f"train.py at {TRAINER_GOAL:.0%} of litespark's tokens/s on a GPU"
    names = {variant.kind: variant.name for variant in record.variants}
    absent = next((name for name in ("train.py", "litespark") if name not in names), None)
    reached = f"{absent} is not part of this benchmark" if absent else ratio(record, names["train.py"], "litespark")
    if isinstance(reached, str):
        return Goal(goal, None, "not measured", reached)
    speed = reached.tokens_per_second
    if record.provenance.environment.on_cpu:
        return Goal(goal, speed, "not measured", "the goal is one for GPUs")
    return Goal(goal, speed, "met" if speed.median >= TRAINER_GOAL else "NOT met", "")


def succeeded(record: StepRecord) -> bool:
    """Whether every variant that could run did, and train.py keeps up where that can be judged."""
    return not failures(record) and trainer_goal(record).verdict != "NOT met"


def tables(record: StepRecord) -> list[Table]:
    table = list(rows(record).values())
    goal = Table([*texts("goal"), Column("reached", TIMES), *texts("verdict", "of, or why")], [trainer_goal(record)])
    return [_variants(record, table), *_ratios(record, table), goal]


def _variants(record: StepRecord, table: Sequence[Row]) -> Table:
    gpu, rates = not record.provenance.environment.on_cpu, record.rates
    # figure of the rounds -> its column, and why it is absent
    peak = None if rates.peak_flops else _NO_PEAK
    figures: dict[str, tuple[Column, str | None]] = {
        "tflops": (Column("model FLOP/s", lambda tflops: scaled(1e12 * tflops, "FLOP/s")), None),
        "mfu_causal": (Column("MFU C", percent), peak),
        "mfu_full": (Column("MFU F", percent), peak),
        "hfu_causal": (Column("HFU C", percent), peak),
        "mfu_measured": (Column("of matmul", percent), PROBE_DISTURBED if rates.matmul_flops else None),
        "joules_per_token": (Column("J/token", lambda joules: scaled(joules, "J")), None),
        "watts": (Column("W", short), None),
        "peak_memory_mib": (Column("peak MiB", "{:,.0f}".format), None if gpu else "measured on GPUs only"),
        "loss": (Column("loss", "{:.4f}".format), None),
    }

    def cell(row: Row, figure: str) -> float | Absent | None:
        values = row.repeats.of(figure)
        if values is not None:
            return values.high if figure == "peak_memory_mib" else values.median
        reason = row.joules_reason if figure == "joules_per_token" else figures[figure][1]
        return Absent(reason) if reason else None

    cells = [
        (
            row.name + (" (!)" if row.doubts else ""),
            row.tokens_per_second,
            row.step_ms,
            row.p95_ms,
            *(cell(row, figure) for figure in figures),
            Absent(_NO_ROOFLINE) if row.roofline_ms is None else row.roofline_ms,
            row.share_of_roofline,
            row.recompute,
            f"{len(row.repeats.figures)}/{record.protocol.rounds}",
        )
        for row in table
        if row.absent is None
    ]
    columns = [
        *texts("variant"),
        Column("tokens/s", rate),
        Column("step ms", plain),
        Column("p95", plain),
        *(column for column, _ in figures.values()),
        Column("roofline ms", plain),
        Column("of roofline", percent),
        *texts("recompute"),
        Column("rounds"),
    ]
    return Table(columns, cells, about=_about(record), notes=_notes(record, table))


def _about(record: StepRecord) -> list[str]:
    protocol, rates, environment = record.protocol, record.rates, record.provenance.environment
    masks = "attention within documents" if protocol.document_mask else "attention over whole sequences"
    limits = [device.power_limit_watts for device in environment.devices if device.power_limit_watts is not None]
    peak = "no peak is known for this device"
    if rates.peak_flops is not None:
        peak = f"peak {scaled(rates.peak_flops, 'FLOP/s')} (dense bf16, for fp8 too; {rates.peak_source})"
    lines = [
        f"{measured_model(record)}; {scaled(record.model.parameters)} parameters",
        f"{protocol.data} data, {masks}, {protocol.precision}; weights and optimizer states in fp32",
        turns(record, "variant"),
        ", ".join(device.name for device in environment.devices)
        + (f", driver {environment.driver}" if environment.driver else "")
        + (f", power limit {plain(limits[0], 'W')}" if limits else "")
        + f", torch {environment.torch}",
        f"measured here: matrix products {scaled(rates.matmul_flops, 'FLOP/s')}, attention "
        f"{scaled(rates.attention_flops, 'FLOP/s')}, copies {scaled(rates.copy_bytes, 'B/s')}; {peak}",
    ]
    if any(variant.kind == "huggingface" for variant in record.variants):
        lines.append("data.document_mask=false for all: Hugging Face Llama cannot keep attention within documents")
    return lines + _device_states(record)


def measured_model(record: StepRecord) -> str:
    model, protocol = record.model, record.protocol
    layers = f"{model.num_layers} layers"
    if model.num_layers < model.layers_whole:
        layers = f"{model.num_layers} of its {model.layers_whole} layers with embedding and head, NOT the whole model"
    return (
        f"{model.name}, {layers}; {protocol.micro_batch_size} sequences of {protocol.seq_len} tokens, micro-batches "
        f"a step: {protocol.accumulate}"
    )


def turns(record: StepRecord, what: str) -> str:
    protocol = record.protocol
    there = "all there" if record.complete else "NOT all there: the same command continues"
    return (
        f"a fresh process for each {what} and round, every second round reversed; {protocol.warmup_steps} steps of "
        f"warm-up, {protocol.steps} counted; rounds asked for: {protocol.rounds}, {there}"
    )


def _device_states(record: StepRecord) -> list[str]:
    measured = [process for variant in record.variants for process in variant.measured]
    states = [state for process in measured for state in (process.before, process.after) if state]
    parts = []
    for name, field, unit in (("SM clock", "sm_clock_mhz", "MHz"), ("temperature", "temperature_celsius", "°C")):
        if there := [value for state in states if (value := getattr(state, field)) is not None]:
            parts.append(f"{name} {min(there):g} to {max(there):g} {unit}")
    if reasons := {reason for state in states for reason in state.throttle_reasons or []}:
        parts.append(f"clocks held down by {', '.join(sorted(reasons))}")
    return [f"before and after each process: {', '.join(parts)}"] if parts else []


def _notes(record: StepRecord, table: Sequence[Row]) -> list[str]:
    notes = [f"{row.name}: {row.absent or row.about}" for row in table]
    for row in table:
        notes += [f"(!) {row.name}: {doubt}" for doubt in row.doubts]
        if row.absent is None and row.out_of_memory_with:
            tried = " and ".join(row.out_of_memory_with)
            notes.append(f"{row.name}: out of memory with recompute {tried}, measured with {row.recompute}")
    notes += [f"{name}: {error}" for name, error in failures(record).items()]
    if any(row.absent is None for row in table):
        notes.append(
            f"loss: nats per token on {record.protocol.loss_sequences} held-out sequences after all steps; rows that "
            f"differ by more than {percent(LOSS_BOUND)} are not compared; tokens/s: median of the rounds (lowest to "
            "highest)"
        )
    processes = [process for variant in record.variants for process in variant.measured]
    waits = [process.seconds_before for process in processes if process.seconds_before]
    if waits:
        span = f"{duration(min(waits))} to {duration(max(waits))}"
        notes.append(f"from the start of a process to its first counted step: {span}, not counted")
    return notes


def _ratios(record: StepRecord, table: Sequence[Row]) -> list[Table]:
    cells: list[tuple[object, ...]] = []
    for row in table:
        if row.name in BASELINES or (row.absent is not None and row.name != "litespark"):
            continue
        for baseline, pairs in ratios(record, row.name).items():
            if isinstance(pairs, str):
                cells.append((row.name, baseline, None, None, None, f"no ratio: {pairs}"))
            else:
                energy = pairs.joules_per_token or Absent(pairs.joules_reason or "not measured")
                cells.append((row.name, baseline, pairs.tokens_per_second, energy, pairs.tokens_per_second.count, ""))
    columns = [
        *texts("variant", "over"),
        Column("× tokens/s", TIMES),
        Column("× J/token", TIMES),
        Column("rounds"),
        *texts("why absent"),
    ]
    return [Table(columns, cells)] if cells else []
