"""fp8 in a run: how many layers are in it, what casts lost, and what moved."""

from litespark.reports.quantities import count, percent, plain, rate
from litespark.reports.runs import Run
from litespark.reports.table import Column, Fact, Table, facts, texts
from litespark.run.record_fp8 import Fp8Record, Fp8SharesRecord

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
    rows = [(move.step, move.linear, move.before, move.after, move.why) for move in record.moves[-MOST_MOVES:]]
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
