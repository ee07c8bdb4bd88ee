"""The tables of a report: each takes runs and returns Markdown, with units and with a reason beside what is absent."""

import math
import shlex
from collections.abc import Callable, Iterable, Sequence

from litespark.metrics import names
from litespark.metrics.records.run import DeviceRecord, RunRecord
from litespark.metrics.throughput import shared_machine
from litespark.reports.quantities import (
    ABSENT,
    count,
    duration,
    is_measured,
    joules,
    percent,
    plain,
    rate,
    scaled,
    seconds_between,
)
from litespark.reports.reasons import absent, coverage, no_energy
from litespark.reports.runs import Run, compare, differing_keys

MILESTONES = 8
NOT_PROJECTED = "not projected"

Row = Sequence[str]


def markdown_table(header: Row, rows: Iterable[Row]) -> str:
    """A Markdown table; bars and line breaks inside the cells are escaped."""

    def line(cells: Row) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *map(line, rows)])


def headline_table(run: Run) -> str:
    """What the model learned beside what it cost: loss, speed, utilisation and energy."""
    quality, speed, energy = run.record.quality, run.record.throughput, run.record.energy
    data, unit = run.record.data, run.record.loss_unit
    peak = (
        f"of {scaled(speed.peak_flops, 'FLOP/s')} a device ({speed.peak_source or 'no source recorded'})"
        if is_measured(speed.peak_flops)
        else "no peak is known"
    )
    measured_peak = f"of {scaled(speed.measured_peak_flops, 'FLOP/s')} a device, measured here with a matmul probe"
    unigram_bits = data.unigram_bits_per_byte
    fp8 = run.record.fp8
    simulated = "; fp8 is simulated, so this is not its speed" if fp8 is not None and fp8.simulated else ""
    rows = [
        ("validation loss", plain(quality.validation_loss, unit), beaten_by(run.record)),
        ("train loss", plain(quality.train_loss, unit), "last logged"),
        ("unigram entropy", plain(data.unigram_entropy, "nats/token"), "what token frequencies alone reach"),
        (
            "bits per byte",
            plain(quality.bits_per_byte),
            f"token frequencies alone: {plain(unigram_bits)}" if is_measured(unigram_bits) else "",
        ),
        *((each.name, plain(each.value), f"of the task {run.record.task}") for each in run.record.task_metrics),
        ("perplexity", plain(quality.perplexity), "exp(validation loss)"),
        ("token accuracy", percent(quality.token_accuracy), "the most likely token is the right one"),
        (
            "tokens/s",
            rate(speed.tokens_per_second),
            f"over {duration(speed.train_seconds)} of training steps{simulated}",
        ),
        ("step time", plain(speed.step_ms_median, "ms"), f"median; 95th percentile {plain(speed.step_ms_p95, 'ms')}"),
        ("waiting for data", percent(speed.data_wait_share), "of the training time"),
        ("MFU (C)", percent(speed.mfu_causal), peak),
        ("MFU (F)", percent(speed.mfu_full), peak),
        ("HFU (C)", percent(speed.hfu_causal), "recomputed activations counted too"),
        ("MFU (C) of the measured peak", percent(speed.mfu_measured_peak), measured_peak),
        ("peak memory", plain(speed.peak_memory_gib, "GiB"), "on the fullest device"),
        ("energy per token", scaled(energy.joules_per_token_train, "J"), f"{energy.label}, training steps only"),
        ("all-in energy per token", scaled(energy.joules_per_token_all_in, "J"), f"{energy.label}, all phases"),
        ("skipped steps", count(quality.skipped_steps), "loss or gradient was not finite"),
    ]
    return markdown_table(("what", "value", "about it"), _with_reasons(rows, absent(run)))


def beaten_by(record: RunRecord) -> str:
    """By how much the validation loss is below the unigram entropy, in nats and percent, or above it."""
    loss, entropy = record.quality.validation_loss, record.data.unigram_entropy
    if loss is None or entropy is None or entropy <= 0:
        return ""
    difference = plain(abs(entropy - loss), "nats", digits=3)
    side = "below" if loss < entropy else "above"
    return f"{difference} ({percent(abs(entropy - loss) / entropy)}) {side} the unigram entropy"


def shared_by(record: RunRecord) -> str | None:
    """That other programs shared the machine, and how it shows; None where the step times tell of none."""
    speed = record.throughput
    factor = shared_machine(speed.step_ms_median, speed.step_ms_p95, speed.steps, speed.data_wait_share)
    if factor is None:
        return None
    return (
        f"The machine was shared: the 95th percentile of the step times is {plain(factor, digits=2)} times the median. "
        "Speed, utilisation and energy are those of a busy machine"
    )


def energy_table(run: Run) -> str:
    """The energy totals by phase with totals, method and coverage; one sentence where nothing was read."""
    energy = run.record.energy
    if energy.all_in_joules is None and energy.train_joules is None:
        return f"Energy was not measured: {no_energy(run)}."
    total = energy.all_in_joules
    phases = {
        "training steps": energy.phases.train,
        "evaluation": energy.phases.evaluate,
        "checkpoints": energy.phases.checkpoint,
        "idle and start-up": energy.phases.idle,
    }
    rows = [(name, joules(value), _share(value, total)) for name, value in phases.items()]
    parts = [value for value in phases.values() if value is not None]
    lost = total - math.fsum(parts) if total is not None and len(parts) == len(phases) else None
    # steps that a crash threw away are in the all-in sum and in no phase of the surviving run
    if lost is not None and total and lost > 0.001 * total:
        rows.append(("in no phase (steps lost to a crash)", joules(lost), _share(lost, total)))
    rows.append(("**all-in**", joules(total), _share(total, total)))
    facts = [
        f"{energy.label}, read by {energy.method or 'a method that the record does not name'}",
        coverage(energy.coverage),
        f"average power {plain(energy.average_power_watts, 'W')}",
        f"{plain(energy.tokens_per_second_per_watt, 'tokens/s/W')}",
        f"dropped readings: {energy.dropped_readings}",
    ]
    if energy.reason:
        facts.append(energy.reason)
    if is_measured(energy.joules_per_token_train):
        # 1 J/token is 1e9 J a billion tokens, and a kWh is 3.6e6 J
        facts.append(f"{plain(energy.joules_per_token_train * 1e9 / 3.6e6, 'kWh')} per billion tokens, training only")
    return "\n\n".join(["; ".join(facts) + ".", markdown_table(("phase", "energy", "share of all-in"), rows)])


def projection_table(run: Run) -> str:
    """The measured rates carried on to the token target, each absent figure with what it would need."""
    projection = run.record.projection
    if projection.target_tokens is None:
        return "No token target was set, so nothing is projected."
    settings = projection.settings
    currency = projection.currency or "(currency not set)"
    pue = f"PUE {settings.pue:g}" if settings.pue is not None else "PUE not set: the devices alone"
    rows = [
        ("time", duration(_times(projection.hours, 3600)), "on this machine"),
        ("electricity", plain(projection.kwh, "kWh"), pue),
        ("cost", plain(projection.cost, currency), f"at {settings.price_per_kwh} {currency} a kWh"),
        ("CO2e", plain(projection.co2e_kg, "kg"), f"at {settings.grid_kg_per_kwh} kg a kWh of the grid"),
    ]
    why = {what.removeprefix("projected "): reason for what, reason in absent(run).items()}
    target = f"To {count(projection.target_tokens)} tokens, at the rates of this run:"
    rows = [(what, value.replace(ABSENT, NOT_PROJECTED), about) for what, value, about in rows]
    return f"{target}\n\n{markdown_table(('what', 'projected', 'about it'), _with_reasons(rows, why))}"


def model_and_data_table(run: Run) -> str:
    """Sizes of the model and of the data set."""
    model, data = run.record.model, run.record.data
    rows = [
        ("model", model.name),
        ("parameters", f"{count(model.parameters)}, of them in matmuls {count(model.matmul_parameters)}"),
        (
            "model FLOPs per token",
            f"{scaled(model.flops_per_token_causal, 'FLOP')} (C), {scaled(model.flops_per_token_full, 'FLOP')} (F)",
        ),
        ("sequence length", f"{count(model.seq_len)} tokens"),
        ("data", f"{data.name} (manifest {data.manifest_hash[:12]})"),
        ("vocab_size", count(data.vocab_size)),
        ("training set", f"{count(data.train_tokens)} tokens"),
        ("validation set", f"{count(data.validation_tokens)} tokens"),
        ("trained on", f"{count(run.record.throughput.tokens)} tokens in {count(run.record.throughput.steps)} steps"),
    ]
    if data.train_tokens:
        rows.append(("epochs", plain(run.record.throughput.tokens / data.train_tokens, digits=3)))
    return markdown_table(("what", "value"), rows)


def environment_table(run: Run) -> str:
    """Machine, versions, commit and command."""
    record, environment = run.record, run.record.environment
    commit = record.git_commit[:12] if record.git_commit else "not in a git checkout"
    dirty = " with uncommitted changes" if record.git_dirty else ""
    versions = {
        "Python": environment.python,
        "torch": environment.torch,
        "Triton": environment.triton,
        "Lightning": environment.lightning,
        "LitData": environment.litdata,
    }
    rows = [
        ("devices", "; ".join(map(_device, environment.devices)) or "none recorded"),
        ("driver", environment.driver or "none"),
        ("CPU", environment.cpu),
        ("platform", environment.platform),
        ("processes", str(environment.world_size)),
        ("precision", precision_of(record)),
        ("versions", ", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items())),
        ("commit", f"{commit}{dirty}"),
        ("config", f"hash {record.config_hash[:12]}, seed {record.seed}"),
        ("command", f"`{shlex.join(record.command)}`"),
        ("started", record.started),
        ("ended", record.ended or "not yet, or killed"),
        ("wall time", duration(seconds_between(record.started, record.ended))),
    ]
    return markdown_table(("what", "value"), rows)


def precision_of(record: RunRecord) -> str:
    """In what the run computed, with the recipe of fp8."""
    fp8 = record.fp8
    if fp8 is None:
        return record.environment.precision
    return f"{record.environment.precision} ({fp8.recipe}{', simulated' if fp8.simulated else ''})"


def segments_table(run: Run) -> str:
    """One row per start or resume."""
    rows = [
        (
            segment.started,
            segment.ended or "killed or still running",
            f"{segment.first_step} to {segment.last_step if segment.last_step is not None else 'unknown'}",
            segment.reason,
        )
        for segment in run.record.segments
    ]
    return markdown_table(("started", "ended", "steps", "why"), rows)


def progress_table(run: Run) -> str:
    """Loss beside speed and energy at a few points of the run; validation rows are always among them."""
    table = run.metrics
    if table.empty:
        return "Nothing was logged."
    chosen = {round(index * (len(table) - 1) / (MILESTONES - 1)) for index in range(MILESTONES)}
    if names.VALIDATION_LOSS in table:
        validated = [position for position, measured in enumerate(table[names.VALIDATION_LOSS].notna()) if measured]
        chosen |= set(validated[:: max(1, -(-len(validated) // MILESTONES))]) | set(validated[-1:])
    columns: dict[str, tuple[str, Callable[[float | None], str]]] = {
        "train loss": (names.TRAIN_LOSS, plain),
        "validation loss": (names.VALIDATION_LOSS, plain),
        "tokens/s": (names.TOKENS_PER_SECOND, rate),
        "MFU (C)": (names.MFU_CAUSAL, percent),
        "MFU (C) of measured peak": (names.MFU_MEASURED_PEAK, percent),
        "energy/token": (names.JOULES_PER_TOKEN, lambda value: scaled(value, "J")),
    }
    # what was never measured in this run is listed with its reason elsewhere
    logged = {title: column for title, column in columns.items() if len(run.series(column[0]))}
    rows = []
    for position in sorted(chosen):
        row = table.iloc[position]
        figures = (_cell(text(row[key])) for key, text in logged.values())
        rows.append((count(int(row["step"])), count(int(row["tokens"])), *figures))
    return markdown_table(("step", "tokens", *logged), rows)


def comparison_table(runs: Sequence[Run]) -> str:
    """The runs side by side; settings in which they differ first."""
    keys = differing_keys(runs)
    columns = ("tokens", "train loss", "validation loss", "bits per byte", "tokens/s")
    costs = ("MFU (C)", "MFU (F)", "MFU (C) of measured peak", "energy/token", "peak memory", "status")
    header = ("run", *keys, *columns, *costs)
    rows = [
        [
            str(row["run"]),
            *("—" if row[key] is None else str(row[key]) for key in keys),
            count(int(row["tokens"])),
            _cell(plain(row["train_loss"])),
            _cell(plain(row["validation_loss"])),
            _cell(plain(row["bits_per_byte"])),
            _cell(rate(row["tokens_per_second"])),
            _cell(percent(row["mfu_causal"])),
            _cell(percent(row["mfu_full"])),
            _cell(percent(row["mfu_measured_peak"])),
            _cell(scaled(row["joules_per_token"], "J")),
            _cell(plain(row["peak_memory_gib"], "GiB")),
            str(row["status"]),
        ]
        for row in compare(runs).astype(object).to_dict("records")
    ]
    return markdown_table(header, rows)


def _with_reasons(rows: Sequence[tuple[str, str, str]], reasons: dict[str, str]) -> list[Row]:
    """The rows (what, value, about it), with the reason in the last column where the value is absent."""
    return [
        (what, value, reasons.get(what, about) if value in (ABSENT, NOT_PROJECTED) else about)
        for what, value, about in rows
    ]


def _cell(text: str) -> str:
    """In wide tables a dash stands for what was not measured."""
    return "—" if text == ABSENT else text


def _share(part: float | None, total: float | None) -> str:
    return percent(part / total) if part is not None and total else "—"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _device(device: DeviceRecord) -> str:
    facts = [f"id {device.uuid_hash[:8]}"] if device.uuid_hash else []
    if device.power_limit_watts is not None:
        facts.append(f"power limit {plain(device.power_limit_watts, 'W')}")
    return f"{device.name} ({', '.join(facts)})" if facts else device.name
