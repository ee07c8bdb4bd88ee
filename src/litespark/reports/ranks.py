"""What a rank holds and sends under each strategy, as one table."""

from collections.abc import Sequence

from litespark.planning.ranks import Links, RankPlan
from litespark.reports.quantities import plain, short
from litespark.reports.table import Absent, Column, Table, texts
from litespark.reports.traffic import Rates

_GIGA = 1e9
_HELD = ("parameters", "gradients", "states", "gathered", "kept")


def table(plans: Sequence[RankPlan], *, about: str, flops: float, links: Links | None = None) -> Table:
    """A row for each plan; `flops` are those of a rank in a step."""
    links, rate = links or Links(), Rates().gemm
    columns = [
        *texts("strategy", "copies x shards x parts"),
        Column("micro-batches", str),
        *(Column(f"{name} GB", _few) for name in (*_HELD, "all")),
        *(Column(f"{name} GB", _few) for name in ("all-gather", "reduce-scatter", "all-reduce", "in node", "across")),
        *(Column(f"{name} s", short) for name in ("links", "products")),
    ]
    notes = [
        "computed from sizes, not measured. Held by a rank: parameters, gradients and states in fp32; gathered: what "
        "is whole at a time beside them; kept: activations of a micro-batch, counted; without what an allocator wastes",
        "sent by a rank in a step, around rings; across: to other nodes, the mean over ranks",
        f"bounds: links, the longer of {plain(links.inside / _GIGA)} GB/s within a node and "
        f"{plain(links.across / _GIGA)} GB/s from each rank to other nodes; products, at {plain(rate / 1e12)} TFLOP/s",
    ]
    return Table(columns, [(*_row(plan, links), flops / rate) for plan in plans], about=[about], notes=notes)


def _row(plan: RankPlan, links: Links) -> tuple[object, ...]:
    uncounted = Absent("the activations of this family are not counted")
    held = [uncounted if (value := getattr(plan, name)) is None else value / _GIGA for name in _HELD]
    sent = plan.sent("all_gather"), plan.sent("reduce_scatter"), plan.sent("all_reduce"), plan.inside, plan.across
    return (
        plan.strategy.name + (", whole" if plan.strategy.shards and plan.strategy.accumulate == "whole" else ""),
        " x ".join(map(str, plan.roles)),
        plan.micro_batches,
        *held,
        uncounted if plan.held is None else plan.held / _GIGA,
        *(value / _GIGA for value in sent),
        plan.seconds(links),
    )


def _few(gigabytes: float) -> str:
    return "< 0.001" if 0 < gigabytes < 1e-3 else short(gigabytes)
