"""Training in fp8 around the steps: the scales of a model are renewed after each of them, and go into checkpoints."""

import logging
from typing import Any

import torch
from torch import nn

from litespark.mesh import Mesh
from litespark.ops.linear.state import Fp8State

log = logging.getLogger(__name__)


def state_of(model: nn.Module) -> Fp8State | None:
    """What a model in fp8 keeps; None: it is in another precision."""
    return getattr(model, "fp8", None)


def saved(state: Fp8State, mesh: Mesh) -> dict[str, Any]:
    """What a checkpoint keeps of `state`, with what the casts lost on all ranks; a collective."""
    values = state.state_dict()
    scaling = values["scaling"]
    lost = mesh.gather((scaling["counts"], scaling["seen"]))
    scaling["counts"] = torch.stack([counts for counts, _ in lost]).sum(dim=0)
    scaling["seen"] = [sum(of_ranks) for of_ranks in zip(*(seen for _, seen in lost), strict=True)]
    return values


def restore(state: Fp8State | None, values: dict[str, Any] | None, *, first_rank: bool) -> None:
    """Take up what `saved` gave, however many ranks there are now; the first goes on with what all of them had lost.

    `state` is None where the run is not in fp8 now, `values` where the one that saved was not.
    """
    if state is None:
        if values is not None:
            log.warning("resuming without fp8: the run was in fp8 when this checkpoint was saved, its scales are left")
        return
    if values is None:
        log.warning(
            "resuming in fp8: the run was not in fp8 when this checkpoint was saved, so the first step takes its "
            "scales from the tensors themselves"
        )
        return
    if not first_rank:
        scaling = values["scaling"]
        nothing = {"counts": torch.zeros_like(scaling["counts"]), "seen": [0] * len(scaling["seen"])}
        values = {**values, "scaling": {**scaling, **nothing}}
    state.load_state_dict(values)
