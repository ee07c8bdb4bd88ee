"""What an op of PyTorch sends to other ranks: which collective it is, its payload, and the ranks of its group."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

# ops of c10d, which FSDP2, DDP and `litespark.mesh` call, and of its functional collectives, which DTensor calls
_COLLECTIVES = {
    "allreduce_": "all_reduce",
    "all_reduce": "all_reduce",
    "all_reduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "broadcast_": "broadcast",
    "broadcast": "broadcast",
    "alltoall_base_": "all_to_all",
    "all_to_all_single": "all_to_all",
}
# they move nothing by themselves
_WAITS = frozenset({"wait_tensor", "barrier", "monitored_barrier_", "check_for_nan", "_wrap_tensor_autograd"})


class Sent(NamedTuple):
    """One call of a collective: bytes of the whole that is gathered or reduced, and the ranks that take part."""

    collective: str
    payload: int
    ranks: tuple[int, ...]


def is_communication(op: str) -> bool:
    """Whether an op, by its qualified name, is one of PyTorch's between ranks."""
    return op.startswith(("c10d::", "_c10d_functional::"))


def sent_by(func: Any, args: Any) -> Sent | None:
    """What a call of such an op sends; None: it waits for others, and sends nothing.

    Raises:
        NotImplementedError: it is none of those that are counted.
    """
    op = func._schema.name.partition("::")[2]
    if op in _WAITS:
        return None
    if op not in _COLLECTIVES:
        raise NotImplementedError(f"{func._schema.name}: this collective is not counted")
    # of what is given and what is made the whole is the larger
    payload = max(sum(leaf.nbytes for leaf in tree_leaves(one) if isinstance(leaf, Tensor)) for one in args)
    ranks = _ranks(next(one for one in reversed(args) if isinstance(one, str) or _is_group(one)))
    if op == "all_gather_into_tensor":  # which is given its part alone
        payload *= len(ranks)
    return Sent(_COLLECTIVES[op], payload, ranks)


def _is_group(value: Any) -> bool:
    return "ProcessGroup" in str(getattr(value, "_type", lambda: "")())


def _ranks(group: Any) -> tuple[int, ...]:
    c10d: Any = dist.distributed_c10d
    found = c10d._resolve_process_group(group) if isinstance(group, str) else dist.ProcessGroup.unbox(group)
    return tuple(dist.get_process_group_ranks(found))
