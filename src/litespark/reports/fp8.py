"""fp8 in a run: how many layers are in it, what casts lost, what moved, and its loss beside that of bf16."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import permutations

from litespark.ops.fp8.adaptive import Move
from litespark.reports.quantities import ABSENT, count, is_measured, percent, plain, rate
from litespark.reports.runs import Run, differing_keys, labels
from litespark.reports.table import Column, Fact, Table, facts, texts
from litespark.run.record_fp8 import Fp8Record, Fp8SharesRecord

# relative difference of losses up to which fp8 counts as training like bf16
PARITY = 0.005
MOST_MOVES = 20
MOST_TENSORS = 8
_FALLBACKS = {"bf16": "goes to bf16", "none": "is only warned of"}


def tables(run: Run) -> list[Table]:
    record = run.record.fp8
    return [] if record is None else [_facts(run, record), _moves(record), *_worst(record)]


def in_a_sentence(record: Fp8Record) -> str:
    simulated = "simulated, " if record.simulated else ""
    moves = f"{len(record.moves)} {'move' if len(record.moves) == 1 else 'moves'}"
    return f"fp8 {simulated}{record.recipe}: {record.in_fp8} of {record.linears} linear layers at the end, {moves}."


def parity(runs: Sequence[Run]) -> Table | None:
    """Each run in fp8 beside every run that differs from it in precision alone; None where there are none."""
    named = permutations(zip(labels(runs), runs, strict=True), 2)
    rows = [_beside(*one, *other) for one, other in named if _are_a_pair(one[1], other[1])]
    columns = [
        *texts("fp8", "beside"),
        Column("validation loss", plain, ABSENT),
        Column("without fp8", plain, ABSENT),
        Column("difference", lambda share: ("+" if share > 0 else "") + percent(share), ABSENT),
        *texts(f"within {100 * PARITY:g} %", "tokens/s"),
    ]
    return Table(columns, rows) if rows else None


def _facts(run: Run, record: Fp8Record) -> Table:
    speed, quality = run.record.throughput, run.record.quality
    blocks = record.layers - record.bf16_first - record.bf16_last
    which = f"{', '.join(record.kinds)} of {count(blocks)} of {count(record.layers)} blocks"
    if record.bf16_first or record.bf16_last:
        which += f"; the first {record.bf16_first} and the last {record.bf16_last} stay in bf16"
    products = "in the fp8 units of the device"
    if record.simulated:
        products = "rounded as in fp8 and multiplied in a wider dtype: the speed is not that of fp8"
    readings = (
        f"a layer {_FALLBACKS.get(record.fallback, record.fallback)} when several in a row find that more than "
        f"{percent(record.overflow_bound)} of one of its tensors saturates or more than "
        f"{percent(record.underflow_bound)} becomes zero"
    )
    in_fp8 = f"{count(record.in_fp8)} of {count(record.linears)} ({percent(record.in_fp8 / record.linears)})"
    loss = plain(quality.validation_loss, "nats/token")
    return facts(
        [
            Fact("recipe", record.recipe, about=f"activations and weights e4m3, gradients {record.gradients}"),
            Fact("linear layers in fp8 now", in_fp8, about=which),
            Fact("products", "simulated" if record.simulated else "fp8", about=products),
            Fact("casts", record.backend, about="what casts to fp8, see Ops"),
            Fact("validation loss", loss, about="of this run"),
            Fact("tokens/s", speed.tokens_per_second, rate, "simulated" if record.simulated else "of this run"),
            Fact("readings", record.readings, count, readings),
        ]
    )


def _moves(record: Fp8Record) -> Table:
    if not record.moves:
        return Table([], [], "No layer moved" + ("." if record.readings else ": nothing that casts lose was read."))
    earlier = len(record.moves) - MOST_MOVES
    rows = [
        (move.step, move.linear, move.before, move.after, Move(**asdict(move)).why)
        for move in record.moves[-MOST_MOVES:]
    ]
    title = f"Moves of layers{f' ({count(earlier)} earlier ones are in run.json)' if earlier > 0 else ''}:"
    return Table([Column("step", count), *texts("layer", "from", "to", "why")], rows, title)


def _worst(record: Fp8Record) -> list[Table]:
    lossy = [share for share in record.shares if share.overflow_highest or share.underflow_highest]
    if not lossy:
        words = "Of no tensor was any value lost in a cast that was counted."
        return [Table([], [], words)] if record.shares else []

    def excess(tensor: Fp8SharesRecord) -> float:
        pairs = ((tensor.overflow_highest, record.overflow_bound), (tensor.underflow_highest, record.underflow_bound))
        return max(share / bound if bound else float("inf") if share else 0.0 for share, bound in pairs)

    def row(tensor: Fp8SharesRecord) -> tuple[object, ...]:
        pairs = (tensor.overflow, tensor.overflow_highest), (tensor.underflow, tensor.underflow_highest)
        shares = [f"{percent(share)} (highest {percent(highest)})" for share, highest in pairs]
        return tensor.tensor, *shares, tensor.step

    rows = [row(tensor) for tensor in sorted(lossy, key=excess, reverse=True)[:MOST_TENSORS]]
    title = "Tensors whose casts lose most against the bounds, of values counted in samples of steps:"
    columns = [*texts("tensor", "saturates", "becomes zero"), Column("last read at step", count)]
    return [Table(columns, rows, title)]


def _are_a_pair(run: Run, other: Run) -> bool:
    """Whether they have equal tokens, data and configs but for precision, the first of them in fp8."""
    ours, theirs = run.record, other.record
    differing = {key.split(".")[0] for key in differing_keys([run, other])}
    alike = ours.data.manifest_hash == theirs.data.manifest_hash and ours.throughput.tokens == theirs.throughput.tokens
    return ours.fp8 is not None and theirs.fp8 is None and alike and differing <= {"precision", "variant"}


def _beside(name: str, run: Run, other_name: str, other: Run) -> tuple[object, ...]:
    loss, without = run.record.quality.validation_loss, other.record.quality.validation_loss
    relative = loss / without - 1 if is_measured(loss) and is_measured(without) and without else None
    within = ABSENT if relative is None else "yes" if abs(relative) <= PARITY else "no"
    speed, before = run.record.throughput.tokens_per_second, other.record.throughput.tokens_per_second
    times = ABSENT
    if run.record.fp8 is not None and run.record.fp8.simulated:
        times = "simulated, so not compared"
    elif is_measured(speed) and is_measured(before):
        times = f"{rate(speed)} against {rate(before)}, {plain(speed / before, digits=3)} times"
    return name, other_name, loss, without, relative, within, times
