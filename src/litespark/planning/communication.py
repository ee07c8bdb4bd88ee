"""Bytes that the ranks of a run send to each other in an optimizer step, as closed formulas: modelled, not measured.

A collective over n ranks works on a payload: the whole of what is gathered or reduced. Around a ring each rank sends
(n-1)/n of it to gather or to reduce-scatter it, and twice that to all-reduce it, which is the least possible
(Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009). A ring
in the order of ranks leaves each node once, so ranks of a node share what crosses, over all the network cards it has.

What is exchanged: of parameters and gradients see Rajbhandari et al., "ZeRO", arXiv:1910.02054, section 7, in the
units in which FSDP2 gathers and reduces (`ModelSpec.units`, and the rest of the model as one more); between ranks that
compute a matrix in parts see Korthikanti et al., arXiv:2205.05198, section 4.2.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from litespark.mesh import Roles
from litespark.models.spec import HasMatrices, ModelSpec
from litespark.ops.backend import OpsConfig, resolve

Collective = Literal["all_gather", "reduce_scatter", "all_reduce"]
COLLECTIVES: tuple[Collective, ...] = get_args(Collective)
# of the mesh of ranks, and all of them together
Dimension = Literal["replicate", "shard", "tensor", "world"]
# of DDP always, since masters are fp32
_GRADIENT_BYTES = 4
# of `OptimizerStep.sums` beside what a task observes, of which each is a sum and its divisor
_SUMS, _SUM_BYTES = 2, 8
# what the hosts count of a step: tokens, supervised ones, pairs of attention, examples, and who asks to stop
_HOST_COUNTS = 5


@dataclass(frozen=True)
class Exchange:
    """What a step exchanges by one kind of collective, over one dimension of the mesh of ranks.

    Attributes:
        payload: bytes over all its calls in a step, of one rank's group.
        calls: how many, where it follows from the sizes; DDP packs gradients into buckets as it finds fit.
        ranks: of the group.
    """

    collective: Collective
    over: Dimension
    what: str
    payload: int
    ranks: int
    calls: int | None = None

    @property
    def sent(self) -> float:
        """Bytes that each rank sends around a ring."""
        passes = 2 if self.collective == "all_reduce" else 1
        return passes * self.payload * (self.ranks - 1) / self.ranks


@dataclass(frozen=True)
class Sharing:
    """How the ranks of a run share a step of `micro_batches`; bytes are those of a value on its way.

    `by_unit`: FSDP2 has the parameters; else DDP, which has them whole on every rank.
    `reduced_whole`: gradients of a step are added up whole, and parameters stay gathered (`strategy.accumulate=whole`).
    """

    micro_batches: int = 1
    gathered_bytes: int = 2
    reduced_bytes: int = 4
    reshard_after_forward: bool = True
    reduced_whole: bool = False
    by_unit: bool = True

    @property
    def gathers(self) -> int:
        """How often a step gathers each unit: before its forward pass, and again behind it where it was freed."""
        return 1 if self.reduced_whole else (1 + self.reshard_after_forward) * self.micro_batches

    @property
    def reductions(self) -> int:
        """How often a step reduces the gradients of each unit over its shards; over copies once."""
        return 1 if self.reduced_whole else self.micro_batches


Unit = Sequence[torch.Size]
"""The shapes of the parameters that are gathered at once."""


def units_of(spec: ModelSpec, tensor: int = 1) -> list[Unit]:
    """The units of a model, the rest behind its layers; a shared parameter is in one of them.

    With `tensor` ranks that compute each matrix in parts, the shapes of one of them: a matrix of a layer that is
    several stored above each other (see `HasMatrices`) is these, each cut by rows, any other one is cut by columns, and
    the embedding and the head are cut by rows.
    """
    with torch.device("meta"):
        model = spec.build(resolve(OpsConfig()), "none")
    stacked = [part.matrices() for part in model.modules() if tensor > 1 and isinstance(part, HasMatrices)]
    rows_of = {matrix: rows for of_part in stacked for matrix, rows in of_part.items()}
    seen: set[nn.Parameter] = set()
    units: list[Unit] = []
    for module in (*spec.units(model), model):
        own = [parameter for parameter in module.parameters() if parameter not in seen]
        seen.update(own)
        units.append([shape for parameter in own for shape in _cut(parameter, rows_of.get(parameter), tensor)])
    return units


def _cut(parameter: nn.Parameter, rows: tuple[int, ...] | None, tensor: int) -> list[torch.Size]:
    shape = parameter.shape
    if tensor == 1 or len(shape) == 1:
        return [shape]
    if rows is not None and len(rows) == 1:
        return [torch.Size([shape[0], shape[1] // tensor])]
    return [torch.Size([count // tensor, *shape[1:]]) for count in rows or (shape[0],)]


def padded(unit: Unit, shards: int) -> int:
    """Values of a unit with each parameter's rows filled up to a multiple of `shards`, as FSDP2 sends them."""
    return sum(-(-shape[0] // shards) * shards * shape[1:].numel() for shape in unit)


def data_exchanges(units: Sequence[Unit], roles: Roles, sharing: Sharing) -> list[Exchange]:
    """What the ranks that differ in their data exchange in a step: parameters and gradients.

    Of DDP it is the all-reduce of fp32 gradients after the last micro-batch. FSDP2 gathers each unit and
    reduce-scatters its gradients; over copies the shards of them are then all-reduced, once a step.
    """
    values = sum(padded(unit, roles.shard) for unit in units)
    if not sharing.by_unit:
        ddp = Exchange("all_reduce", "replicate", "gradients", _GRADIENT_BYTES * values, roles.replicate)
        return [ddp] if roles.replicate > 1 else []
    gathered, reduced = values * sharing.gathered_bytes, values * sharing.reduced_bytes
    gathers, reductions = sharing.gathers, sharing.reductions
    exchanges = []
    if roles.shard > 1:
        exchanges = [
            Exchange("all_gather", "shard", "parameters", gathers * gathered, roles.shard, gathers * len(units)),
            Exchange(
                "reduce_scatter", "shard", "gradients", reductions * reduced, roles.shard, reductions * len(units)
            ),
        ]
    if roles.replicate > 1:
        of_shard = reduced // roles.shard
        exchanges.append(Exchange("all_reduce", "replicate", "gradients", of_shard, roles.replicate, len(units)))
    return exchanges


def tensor_exchanges(
    units: Sequence[Unit], roles: Roles, sharing: Sharing, *, tokens: int, hidden_size: int, again: bool
) -> list[Exchange]:
    """What the ranks that compute a matrix in parts exchange in a step: activations of all `tokens` of a micro-batch.

    Between matrices each rank has a part of the sequence. Of each half of a layer (attention, MLP) the normalised
    stream is gathered and its output reduce-scattered, and backward the same for their gradients; the embedding
    reduces, the head gathers, and backward the other way round. `again`: layers make their forward pass again in the
    backward pass, up to the last product. The loss on a vocabulary in parts needs three numbers of each token. The
    gradients of vectors (the weights of norms) are summed, since each rank has them of its own tokens.
    """
    if roles.tensor == 1:
        return []
    layers, group, micro_batches = len(units) - 1, roles.tensor, sharing.micro_batches
    stream = tokens * hidden_size * sharing.gathered_bytes
    gathers = micro_batches * (layers * (4 + 2 * again) + 2)
    reductions = micro_batches * (layers * (4 + again) + 2)
    vectors = [shape.numel() for unit in units for shape in unit if len(shape) == 1]
    of_vectors = sum(vectors) * (sharing.reduced_bytes if sharing.reduced_whole else sharing.gathered_bytes)
    sums = sharing.reductions
    return [
        Exchange("all_gather", "tensor", "activations", gathers * stream, group, gathers),
        Exchange("reduce_scatter", "tensor", "activations", reductions * stream, group, reductions),
        Exchange("all_reduce", "tensor", "loss", 3 * micro_batches * tokens * 4, group),
        Exchange("all_reduce", "tensor", "vectors", sums * of_vectors, group, sums * len(vectors)),
    ]


def number_exchanges(units: Sequence[Unit], roles: Roles, observed: int = 0) -> list[Exchange]:
    """The few numbers on which all ranks agree in a step, which cost their latency alone.

    They are the loss and its divisor with sum and divisor of each number that the task observes, what the hosts count,
    and, of gradients in shards or parts, the norm of each parameter's.
    """
    world = roles.data * roles.tensor
    if world == 1:
        return []
    sums = _SUM_BYTES * (_SUMS + 2 * observed)
    exchanges = [
        Exchange("all_reduce", "world", "sums", sums, world, 1),
        Exchange("all_reduce", "world", "counts", 8 * _HOST_COUNTS, world, 1),
    ]
    norms = 4 * sum(len(unit) for unit in units)
    parts: tuple[tuple[Dimension, int], ...] = (("shard", roles.shard), ("tensor", roles.tensor))
    return exchanges + [Exchange("all_reduce", over, "norms", norms, ranks, 1) for over, ranks in parts if ranks > 1]


def group_of(roles: Roles, over: Dimension, rank: int = 0) -> range:
    """The ranks with which `rank` exchanges over a dimension, numbered as `Roles` has them, the last one fastest."""
    if over == "world":
        return range(roles.data * roles.tensor)
    stride = {"replicate": roles.shard * roles.tensor, "shard": roles.tensor, "tensor": 1}[over]
    size = roles._asdict()[over]
    first = rank - rank // stride % size * stride
    return range(first, first + size * stride, stride)


def crossing_share(roles: Roles, over: Dimension, ranks_per_node: int) -> float:
    """The share of what is sent over a dimension that goes from node to node, of all ranks together.

    Around each ring a rank sends to the next of its group; ranks fill one node after the other.
    """
    crossing = 0
    for rank in range(world := roles.data * roles.tensor):
        group = group_of(roles, over, rank)
        after = group[(group.index(rank) + 1) % len(group)]
        crossing += rank // ranks_per_node != after // ranks_per_node
    return crossing / world
