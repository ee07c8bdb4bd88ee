"""What each rank of a run holds, and sends in a step, under a strategy: computed from sizes, not measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from litespark.mesh import Roles
from litespark.models.spec import ModelSpec, Recompute
from litespark.planning.communication import (
    COLLECTIVES,
    Collective,
    Exchange,
    Sharing,
    Unit,
    crossing_share,
    data_exchanges,
    number_exchanges,
    padded,
    tensor_exchanges,
    units_of,
)
from litespark.planning.memory import WEIGHT_BYTES, training_state_bytes
from litespark.training.optim import OptimizerConfig
from litespark.training.parallel.config import StrategyConfig

_NARROW_BYTES, _WIDE_BYTES = 2, 4


@dataclass(frozen=True)
class Links:
    """What a rank sends in bytes/s, as vendors state it: an H200 over NVLink, and a network card of 400 Gb/s a GPU."""

    inside: float = 450e9
    across: float = 50e9


@dataclass(frozen=True)
class Layout:
    """Nodes of equally many GPUs, one rank each."""

    nodes: int
    gpus_per_node: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class RankPlan:
    """One rank of a run, in bytes: what it holds, and what it sends in a step of `micro_batches`.

    Attributes:
        gathered: the most that it has whole at a time beside its own, with what it reduces; of whole weights the casts.
        kept: activations from a forward to its backward pass; None: they were not counted.
    """

    strategy: StrategyConfig
    roles: Roles
    layout: Layout
    micro_batches: int
    parameters: int
    gradients: int
    states: int
    gathered: int
    kept: int | None
    exchanges: tuple[Exchange, ...]

    @property
    def held(self) -> int | None:
        own = self.parameters + self.gradients + self.states + self.gathered
        return None if self.kept is None else own + self.kept

    def sent(self, *collectives: Collective) -> float:
        """What it sends by these kinds of collectives, by all of them if none is named."""
        return sum(one.sent for one in self.exchanges if one.collective in (collectives or COLLECTIVES))

    @property
    def across(self) -> float:
        """What it sends to other nodes, the mean over ranks."""
        dimensions = {one.over for one in self.exchanges}
        shares = {one: crossing_share(self.roles, one, self.layout.gpus_per_node) for one in dimensions}
        return sum(one.sent * shares[one.over] for one in self.exchanges)

    @property
    def inside(self) -> float:
        return self.sent() - self.across

    def seconds(self, links: Links) -> float:
        """A bound, not a measurement: that of the busier kind of link at its stated rate."""
        return max(self.inside / links.inside, self.across / links.across)


def sharing_of(strategy: StrategyConfig, *, narrow: bool, micro_batches: int) -> Sharing:
    """How a strategy shares a step; `narrow`: it computes in bf16."""
    return Sharing(
        micro_batches,
        gathered_bytes=_NARROW_BYTES if narrow else _WIDE_BYTES,
        reduced_bytes=_NARROW_BYTES if narrow and strategy.reduce_dtype == "bf16" else _WIDE_BYTES,
        reshard_after_forward=strategy.reshard_after_forward,
        reduced_whole=strategy.accumulate == "whole",
        by_unit=strategy.shards,
    )


def plan_rank(
    spec: ModelSpec,
    strategy: StrategyConfig,
    layout: Layout,
    optimizer: OptimizerConfig,
    *,
    micro_batches: int,
    micro_batch_size: int,
    seq_len: int,
    narrow: bool,
    recompute: Recompute,
    kept: int | None,
    observed: int = 0,
) -> RankPlan:
    """The plan of a rank that computes in bf16 (`narrow`) or fp32.

    `kept` are the bytes that a micro-batch of one device keeps; ranks that compute matrices in parts keep a part.
    `observed` numbers are logged by the task. A ValueError where the strategy has no roles for so many ranks.
    """
    roles = strategy.roles(layout.ranks, layout.gpus_per_node)
    sharing = sharing_of(strategy, narrow=narrow, micro_batches=micro_batches)
    units = units_of(spec, roles.tensor)
    exchanges = data_exchanges(units, roles, sharing) + number_exchanges(units, roles, observed)
    shapes = spec.step_shapes(micro_batch_size, seq_len, False)
    if shapes is not None:
        tokens, hidden_size = micro_batch_size * seq_len, shapes.hidden_size
        exchanges += tensor_exchanges(
            units, roles, sharing, tokens=tokens, hidden_size=hidden_size, again=recompute == "full"
        )
    values = sum(padded(unit, roles.shard) // roles.shard for unit in units)
    # of AdamW two moments, of Muon one of its matrices
    moments = training_state_bytes(spec, optimizer=optimizer) - 2 * WEIGHT_BYTES * spec.parameter_count()
    casts = training_state_bytes(spec, keeps_casts=narrow) - training_state_bytes(spec)
    return RankPlan(
        strategy,
        roles,
        layout,
        micro_batches,
        parameters=WEIGHT_BYTES * values,
        gradients=WEIGHT_BYTES * values,
        states=round(moments * values / spec.parameter_count()),
        gathered=_gathered(units, strategy, sharing) if strategy.shards else casts,
        kept=None if kept is None else kept // roles.tensor,
        exchanges=tuple(exchanges),
    )


def _gathered(units: Sequence[Unit], strategy: StrategyConfig, sharing: Sharing) -> int:
    """What is outside of the layers, the layers gathered ahead with the one that computes, each in the dtype on its
    way, and the gradients of one unit as they are made and as they are reduced; or everything."""
    *layers, rest = (sum(shape.numel() for shape in unit) for unit in units)
    whole, layer = sum(layers) + rest, max(layers, default=0)
    if sharing.reduced_whole:
        return whole * (sharing.gathered_bytes + sharing.reduced_bytes)
    gathered = min(whole, rest + (1 + strategy.prefetch) * layer) if sharing.reshard_after_forward else whole
    return gathered * sharing.gathered_bytes + max(layer, rest) * (sharing.gathered_bytes + sharing.reduced_bytes)
