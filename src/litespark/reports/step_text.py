"""What `litespark bench step` found, as text for the terminal and as Markdown for reports, from its record."""

from __future__ import annotations

from collections.abc import Sequence

from litespark.metrics.fp8_goals import fp8_goals
from litespark.metrics.records.step import BASELINES, StepRecord
from litespark.metrics.step_table import LOSS_BOUND, Interval, Ratio, Row, failures, on_gpu, ratios, rows, trainer_goal
from litespark.reports.quantities import duration, percent, plain, rate, scaled
from litespark.reports.reasons import PROBE_DISTURBED
from litespark.reports.tables import markdown_table
from litespark.reports.text_blocks import aligned, bulleted

NONE = "-"
_HEADER = (
    "variant", "tokens/s (low to high)", "step ms", "p95", "model FLOP/s", "MFU C", "MFU F", "HFU C", "of matmul",
    "J/token", "W", "peak MiB", "floor ms", "of floor", "loss", "recompute", "rounds",
)  # fmt: skip


def text(record: StepRecord) -> str:
    """The table, what is to be known beside it, and the ratios, for a terminal."""
    table = rows(record)
    lines = [*_about(record), "", *aligned([_HEADER, *(_cells(row, record) for row in table if row.absent is None)])]
    lines += ["", *_notes(record, table)]
    for name, lines_of_one in _ratios(record, table).items():
        lines += ["", f"{name} over", *(f"  {line}" for line in lines_of_one)]
    return "\n".join([*lines, "", goal(record), *_fp8_goals(record)])


def markdown(record: StepRecord) -> str:
    """The same as Markdown."""
    table = rows(record)
    parts = [
        bulleted(_about(record)),
        markdown_table(_HEADER, [_cells(row, record) for row in table if row.absent is None]),
        bulleted(_notes(record, table)),
    ]
    parts += [f"**{name}** over\n\n{bulleted(each)}" for name, each in _ratios(record, table).items()]
    parts += [goal(record), bulleted(_fp8_goals(record))]
    return "\n\n".join(part for part in parts if part)


def goal(record: StepRecord) -> str:
    """The goal of train.py and its verdict, in one line."""
    found = trainer_goal(record)
    reached = "" if found.ratio is None else f", {_share(found.ratio)} reached"
    reason = "" if found.reason is None else f" ({found.reason})"
    words = f"goal: train.py at {percent(found.threshold)} of litespark's tokens/s on a GPU"
    return f"{words}{reached}: {found.verdict}{reason}"


def _fp8_goals(record: StepRecord) -> list[str]:
    """A line for each goal of fp8, where ours takes part in fp8."""
    return [
        f"goal: {each.goal}{'' if each.value is None else f', {plain(each.value)} reached'}: {each.verdict} "
        f"({each.reason})"
        for each in fp8_goals(record)
    ]


def _share(interval: Interval) -> str:
    return f"{percent(interval.median)} ({percent(interval.low)} to {percent(interval.high)})"


def _about(record: StepRecord) -> list[str]:
    model, protocol, rates = record.model, record.protocol, record.rates
    environment = record.provenance.environment
    layers = f"{model.num_layers} layers"
    if model.num_layers < model.layers_whole:
        layers = f"{model.num_layers} of its {model.layers_whole} layers with embedding and head, NOT the whole model"
    masks = "attention within documents" if protocol.document_mask else "attention over whole rows"
    batches = "1 micro-batch" if protocol.accumulate == 1 else f"{protocol.accumulate} micro-batches"
    limits = [each.power_limit_watts for each in environment.devices if each.power_limit_watts is not None]
    peak = "no peak is known for this device"
    if rates.peak_flops is not None:
        peak = f"peak {scaled(rates.peak_flops, 'FLOP/s')} (dense bf16, for fp8 too; {rates.peak_source})"
    found = [
        f"{model.name}: {scaled(float(model.parameters))} parameters, {layers}; {protocol.micro_batch_size} rows of "
        f"{protocol.seq_len} tokens, {batches} a step",
        f"{protocol.data} data, {masks}, {protocol.precision}; weights and optimizer states in fp32",
        f"a fresh process for each variant and round, every second round reversed; {protocol.warmup_steps} steps of "
        f"warm-up, {protocol.steps} counted; {_rounds(protocol.rounds)} asked for, "
        + ("all there" if record.complete else "NOT all there"),
        ", ".join(each.name for each in environment.devices)
        + (f", driver {environment.driver}" if environment.driver else "")
        + (f", power limit {plain(limits[0], 'W')}" if limits else "")
        + f", torch {environment.torch}",
        f"measured here: matrix products {scaled(rates.matmul_flops, 'FLOP/s')}, attention "
        f"{scaled(rates.attention_flops, 'FLOP/s')}, copies {scaled(rates.copy_bytes, 'B/s')}; {peak}",
    ]
    if any(each.kind == "huggingface" for each in record.variants):
        found.append("data.document_mask=false for all: Hugging Face Llama cannot keep attention within documents")
    return found + _device_states(record)


def _device_states(record: StepRecord) -> list[str]:
    """Clocks and temperature over all processes, and what held the clocks down."""
    states = [state for each in record.variants for one in each.measured for state in (one.before, one.after) if state]
    if not states:
        return []
    reasons = {reason for state in states for reason in state.throttle_reasons or []}
    parts = [
        _range("SM clock", [state.sm_clock_mhz for state in states], "MHz"),
        _range("temperature", [state.temperature_celsius for state in states], "°C"),
        f"clocks held down by {', '.join(sorted(reasons))}" if reasons else "",
    ]
    said = ", ".join(part for part in parts if part)
    return [f"before and after each process: {said}"] if said else []


def _range(name: str, values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    return f"{name} {min(known):g} to {max(known):g} {unit}" if known else ""


def _cells(row: Row, record: StepRecord) -> tuple[str, ...]:
    speed = row.tokens_per_second
    return (
        row.name + (" (!)" if row.doubts else ""),
        NONE if speed is None else f"{rate(speed.median)} ({rate(speed.low)} to {rate(speed.high)})",
        _or_none(row.step_ms_median),
        _or_none(row.step_ms_p95),
        NONE if row.tflops is None else scaled(1e12 * row.tflops, "FLOP/s"),
        *(NONE if each is None else percent(each) for each in
          (row.mfu_causal, row.mfu_full, row.hfu_causal, row.mfu_measured)),
        NONE if row.joules_per_token is None else scaled(row.joules_per_token.median, "J"),
        _or_none(row.watts, 3),
        NONE if row.peak_memory_mib is None else f"{row.peak_memory_mib:,.0f}",
        _or_none(row.floor_ms),
        NONE if row.share_of_floor is None else percent(row.share_of_floor),
        NONE if row.loss is None else f"{row.loss:.4f}",
        row.recompute or NONE,
        f"{row.rounds}/{record.protocol.rounds}",
    )  # fmt: skip


def _or_none(value: float | None, digits: int = 4) -> str:
    return NONE if value is None else plain(value, digits=digits)


def _notes(record: StepRecord, table: Sequence[Row]) -> list[str]:
    """What each variant is, and why something is not there."""
    notes = [f"{row.name}: {row.absent or row.about}" for row in table]
    for row in table:
        notes += [f"(!) {row.name}: {doubt}" for doubt in row.doubts]
        if row.absent is None and row.out_of_memory_with:
            tried = " and ".join(row.out_of_memory_with)
            notes.append(f"{row.name}: out of memory with recompute {tried}, measured with {row.recompute}")
    notes += [f"{name}: {error}" for name, error in failures(record).items() if error != _absent(table, name)]
    there = [row for row in table if row.absent is None]
    if not there:
        return notes
    notes.append(
        f"loss: nats per token on {record.protocol.loss_rows} held-out rows after all steps; rows that differ by more "
        f"than {percent(LOSS_BOUND)} are not compared"
    )
    if record.rates.peak_flops is None:
        notes.append("MFU and HFU: no peak is known for this device; set metrics.peak_flops to its dense bf16 FLOP/s")
    if record.rates.matmul_flops is not None and any(row.mfu_measured is None for row in there):
        notes.append(f"MFU of the measured product: {PROBE_DISTURBED}")
    notes += list(dict.fromkeys(f"J/token: {row.joules_reason}" for row in there if row.joules_reason))
    if not on_gpu(record.provenance.environment):
        notes.append("peak MiB: measured on GPUs only")
    without = [row.name for row in there if row.floor_ms is None]
    if without:
        reason = "it is AdamW's alone, and needs the rates of the precision"
        notes.append(f"floor: not known for {', '.join(without)}: {reason}")
    waits = [each.seconds_before for one in record.variants for each in one.measured if each.seconds_before is not None]
    if waits:
        notes.append(f"from the start of a process to its first counted step: {duration(min(waits))} to "
                     f"{duration(max(waits))}, not counted")  # fmt: skip
    return notes


def _absent(table: Sequence[Row], name: str) -> str | None:
    return next(row.absent for row in table if row.name == name)


def _ratios(record: StepRecord, table: Sequence[Row]) -> dict[str, list[str]]:
    """For each variant that is no baseline: a line for each of the four baselines."""
    width = max(map(len, BASELINES))
    found = {}
    for row in table:
        if row.name in BASELINES or (row.absent is not None and row.name != "litespark"):
            continue
        lines = [f"{baseline:{width}}  {_said(ratio)}" for baseline, ratio in ratios(record, row.name).items()]
        found[row.name] = lines
    return found


def _said(ratio: Ratio | str) -> str:
    if isinstance(ratio, str):
        return f"no ratio: {ratio}"
    energy = "J/token not measured"
    if ratio.joules_per_token is not None:
        energy = f"{_times(ratio.joules_per_token)} J/token"
    return f"{_times(ratio.tokens_per_second)} tokens/s, {energy}"


def _times(interval: Interval) -> str:
    return f"{interval.median:.3f} x ({interval.low:.3f} to {interval.high:.3f}, {_rounds(interval.count)})"


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"
