"""What the ledger says of a record that is not a whole step: one or a few sentences, from its fields alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from litespark.metrics.ablation_table import from_record
from litespark.metrics.records.ledger import Entry
from litespark.metrics.records.loop import LoopRecord
from litespark.metrics.records.ops import CaseRecord, OpsRecord, median
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.step import StepRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.metrics.step_round import Interval
from litespark.reports.data_text import goals as data_goals
from litespark.reports.fp8_text import in_a_sentence
from litespark.reports.quantities import ABSENT, percent, plain, rate
from litespark.reports.tables import shared_by
from litespark.reports.text_blocks import bulleted
from litespark.reports.training_text import markdown as training_markdown

_COMMIT_DIGITS = 7
_MOST_CLASSES = 3


def link(entry: Entry, results: Path, words: str | None = None) -> str:
    """A Markdown link to a record's file, relative to the folder of results."""
    words = words or f"{entry.what} {entry.model} {entry.precision}"
    return f"[{words}]({entry.path.relative_to(results).as_posix()})"


def origin(entry: Entry) -> str:
    """Day, commit, and what a reader must know before the figures."""
    commit = "no commit" if entry.git_commit is None else f"commit {entry.git_commit[:_COMMIT_DIGITS]}"
    changed = " with changes" if entry.git_dirty else ""
    return f"{entry.time[:10]}, {commit}{changed}" + ("" if entry.complete else ", NOT complete")


def step_record(entry: Entry) -> StepRecord | None:
    """The whole steps that a record holds; None where it holds none."""
    found = entry.record if isinstance(entry.record, StepRecord) else getattr(entry.record, "step", None)
    return found if isinstance(found, StepRecord) else None


def _run(entry: Entry) -> str:
    record: RunRecord = entry.record
    speed, energy, quality = record.throughput, record.energy, record.quality
    loss = (
        f"validation loss {plain(quality.validation_loss)} {record.loss_unit}, {plain(quality.bits_per_byte)} bits per "
        "byte"
    )
    joules = energy.joules_per_token_train
    reason = f" ({energy.reason})" if joules is None and energy.reason else ""
    used = percent(speed.mfu_causal if speed.mfu_causal is not None else speed.mfu_measured_peak)
    of = "MFU (C)" if speed.mfu_causal is not None else "MFU of the measured peak"
    shared = shared_by(record)
    return (
        f"{record.status.capitalize()} after {rate(record.throughput.tokens)} tokens: {loss}; "
        f"{rate(speed.tokens_per_second)} tokens/s, {of} {used}; energy {plain(joules, 'J/token')}{reason}."
        + ("" if shared is None else f" {shared}.")
        + ("" if record.fp8 is None else f" {in_a_sentence(record.fp8)}")
    )


def _loop(entry: Entry) -> str:
    record: LoopRecord = entry.record
    if not record.losses_agree:
        return "The two did not train alike, so their times are not compared."
    ratios = record.ratios
    return (
        f"{plain(record.ratio)} of the bare loop's time a step, median of {len(ratios)} blocks "
        f"({plain(min(ratios))} to {plain(max(ratios))}); {plain(statistics.median(record.trainer_step_ms))} ms a step."
    )


def _ops(entry: Entry) -> str:
    record: OpsRecord = entry.record
    met = [sum(goal.verdict == verdict for goal in record.goals) for verdict in ("met", "not met", "not measured")]
    goals = f"Goals: {met[0]} met, {met[1]} not met, {met[2]} not measured."
    red = "".join(f" {each.name}: its verification FAILED." for each in record.red)
    cases = [said for case in record.cases if (said := _fastest(case))]
    return f"{goals}{red}\n\n" + bulleted(cases)


def _fastest(case: CaseRecord) -> str | None:
    timed = case.timed()
    if not timed:
        return None
    best = timed[0]
    reference = next((each for each in case.variants if each.name == "reference"), None)
    eager = median(reference.forward_backward) if reference is not None else float("inf")
    gain = eager / median(best.forward_backward)
    over = f", {plain(gain, digits=3)} times as fast as the reference" if gain < float("inf") else ""
    share = [each for each in (best.share_forward, best.share_backward) if each is not None]
    shares = f", {' and '.join(map(percent, share))} of the copy bandwidth" if len(share) == 2 else ""
    return f"{case.case}: fastest is {best.name}, {plain(median(best.forward_backward))} ms{over}{shares}"


def _ablation(entry: Entry) -> str:
    table = from_record(entry.record)
    switches = ", ".join(f"{row.switch} {_times(row.gain)}" for row in table.rows if row.switch is not None)
    reason = f" ({table.joules_reason})" if table.joules_ratio is None and table.joules_reason else ""
    return (
        f"Tokens/s of the target over the baseline's: {_times(table.gain)}; J/token: {_times(table.joules_ratio)}"
        f"{reason}. Switched on in this order, each over the one before: {switches}."
    )


def _profile(entry: Entry) -> str:
    record: ProfileRecord = entry.record
    most = [each for each in record.by_gap()[:_MOST_CLASSES] if each.gap > 0]
    floor = [each.floor_milliseconds for each in record.classes if each.floor_milliseconds is not None]
    said = ", ".join(f"{each.kernel_class} {plain(each.gap)} ms" for each in most) or "nothing"
    least = f", floor {plain(sum(floor))} ms" if floor else ", no floor"
    return (
        f"{record.variant}: {plain(record.unprofiled_milliseconds)} ms a step ({plain(record.wall_milliseconds)} ms "
        f"under the profiler){least}. Most above its floor: {said}."
    )


def _training(entry: Entry) -> str:
    record: TrainingRecord = entry.record
    overrides = [f"`{word}`" for word in record.provenance.overrides if not word.startswith("paths.")]
    return f"Settings: {' '.join(overrides) or 'none'}.\n\n{training_markdown(record)}"


def _times(interval: Interval | None) -> str:
    if interval is None:
        return ABSENT
    spread = f" [{plain(interval.low, digits=3)} to {plain(interval.high, digits=3)}]" if interval.count > 1 else ""
    return f"× {plain(interval.median, digits=3)}{spread}"


def _data(entry: Entry) -> str:
    return "\n\n" + bulleted(data_goals(entry.record))


LINES: dict[str, Callable[[Entry], str]] = {
    "run": _run,
    "loop": _loop,
    "ops": _ops,
    "ablation": _ablation,
    "profile": _profile,
    "training": _training,
    "data": _data,
}
