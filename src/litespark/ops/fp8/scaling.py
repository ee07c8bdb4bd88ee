"""The scales of a model's tensors and what they come from: the largest values of the last steps, for all at once."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from litespark.mesh import Mesh
from litespark.ops.fp8.formats import Format, power_of_two_scale
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.settings import Recipe


class Scaling:
    """History, scales and counts of the tensors named `names`, "blocks.3.mlp.down.input", each of a format.

    A scale looks back on `history` steps and leaves `margin` powers of two above the largest value seen. Every
    `sample_every`-th step counts saturation and underflow.

    On the host, one for each name: whether it is `known`, with a scale from earlier steps, and how many of its values
    were `seen` by counts since the last `read`.
    """

    def __init__(
        self,
        names: Sequence[str],
        formats: Sequence[Format],
        device: torch.device,
        *,
        history: int,
        margin: int = 0,
        sample_every: int = 10,
    ) -> None:
        assert len(set(names)) == len(names) == len(formats)
        self.names = list(names)
        self.formats = list(formats)
        self.margin = margin
        self.sample_every = sample_every
        self.steps = 0
        self.known = [False] * len(names)
        self.seen = [0] * len(names)
        self._noted = [False] * len(names)
        self.amax = torch.zeros(len(names), dtype=torch.int32, device=device)
        self.history = torch.zeros(history, len(names), dtype=torch.float32, device=device)
        self.scale = _apart(torch.ones(len(names), dtype=torch.float32, device=device))
        self.counts = torch.zeros(len(names), 2, dtype=torch.int64, device=device)
        # a format -> which places it has
        self._places = {
            format: torch.tensor([i for i, wanted in enumerate(formats) if wanted is format], device=device)
            for format in dict.fromkeys(formats)
        }

    @property
    def counting(self) -> bool:
        """Whether this step counts what casts lose."""
        return self.steps % self.sample_every == 0

    def quantisation(
        self, index: int, recipe: Recipe, size: int, *,
        rows: bool = True, columns: bool = True, note: bool = True, count: bool = True,
    ) -> Quantisation:  # fmt: skip
        """How the tensor at `index` of `names`, of `size` values, is to be cast now, in the layouts wanted.

        `delayed` takes the scale from the tensor itself while nothing is known of it. Not to `note` (in validation)
        leaves the cast out of history and counts; not to `count` (a cast that is only made again) out of the counts.
        """
        counted = note and count and self.counting
        if note:
            self._noted[index] = True
        if counted:
            self.seen[index] += size
        return Quantisation(
            self.formats[index],
            scale=self.scale[index] if recipe == "delayed" and self.known[index] else None,
            rows=rows,
            columns=columns,
            amax=self.amax[index] if note else None,
            counts=self.counts[index] if counted else None,
        )

    def forget(self, index: int) -> None:
        """The tensor at `index` is no longer cast: what is known of it will be out of date when it is again."""
        self.known[index] = self._noted[index] = False
        self.history[:, index] = 0.0
        self.amax[index] = 0

    def finish_step(self, mesh: Mesh | None) -> None:
        """After each optimizer step: take its largest values into the history and renew the scales; a collective.

        Without a `mesh` those of this rank by itself: ranks that cast the same weights cast them alike all the same.

        Codes that are kept, those of weights, are to be made anew: the scale that made them is gone.

        A value that is not finite is left out: the step was skipped, and it would spoil the scale for a whole history.
        """
        if mesh is not None:
            mesh.max_on_device(self.amax)
        noted = self.amax.view(torch.float32)
        latest = torch.where(torch.isfinite(noted), noted, self.history[0])
        # in place, as all that a step keeps: a CUDA graph holds its address
        self.history.copy_(torch.cat([latest.unsqueeze(0), self.history[:-1]]))
        # a margin that leads beyond fp32 would make scales NaN, and so all that comes after
        highest = (self.history.amax(dim=0) * 2.0**self.margin).clamp(max=torch.finfo(torch.float32).max)
        for format, places in self._places.items():
            scales = power_of_two_scale(highest[places], format)
            # nothing was seen, or nothing but zeros: the scale stays
            self.scale[places] = torch.where(highest[places] > 0, scales, self.scale[places])
        self.known = list(map(operator.or_, self.known, self._noted))
        self._noted = [False] * len(self.names)
        self.amax.zero_()
        self.steps += 1

    def read(self, mesh: Mesh) -> dict[str, tuple[float, float]]:
        """Name -> shares of values that saturated and became zero since the last call; a collective that waits."""
        totals = torch.cat([self.counts, torch.tensor(self.seen, device=self.counts.device).unsqueeze(1)], dim=1)
        mesh.sum_on_device(totals)
        self.counts.zero_()
        self.seen = [0] * len(self.names)
        rows = zip(self.names, totals.tolist(), strict=True)
        return {name: (saturated / seen, zeroed / seen) for name, (saturated, zeroed, seen) in rows if seen}

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors of their own, for a checkpoint."""
        tensors = {
            name: getattr(self, name).to("cpu", copy=True).contiguous() for name in ("history", "scale", "counts")
        }
        return tensors | {"known": list(self.known), "steps": self.steps, "seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, of the same tensors."""
        device = self.scale.device
        self.history = state["history"].to(device, copy=True)
        self.scale = _apart(state["scale"].to(device))
        self.counts = state["counts"].to(device, copy=True)
        self.known, self.seen, self.steps = list(state["known"]), list(state["seen"]), int(state["steps"])
        # what this process saw before, such as a validation that comes first, is no part of the run
        self._noted = [False] * len(self.names)
        self.amax.zero_()


def _apart(scales: Tensor) -> Tensor:
    """A copy whose values lie 16 bytes apart: cuBLASLt requires this alignment of a scale."""
    return scales.unsqueeze(1).repeat(1, 16 // scales.element_size())[:, 0]
