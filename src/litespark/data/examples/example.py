"""One example of post-training, as ids: what every reader makes and every batch is packed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Weights = NDArray[np.float32]


def prompt_length(weights: Weights) -> int:
    """How many ids of a sequence stand before the first one that is trained; all where none is."""
    trained = np.flatnonzero(weights)
    return int(trained[0]) if trained.size else weights.size


@dataclass(frozen=True, eq=False)
class Example:
    """Sequences of ids that a loss compares or sums: one of a conversation, chosen then rejected of a pair, one of a
    prompt; of a prompt with a completion that was rated that, then the prompt with another's (`mismatched`).

    Attributes:
        sequences: (n,) int32 ids each, two at least.
        weights: (n,) fp32 of each sequence: by how much the prediction of that id is trained, 0 for prompts. Entry 0 is
            0, since nothing predicts the first id.
        about: the other columns of the example, as JSON has them: `margin` of a pair, `desirable` of a completion,
            what a reward reads of a prompt.
    """

    sequences: tuple[Ids, ...]
    weights: tuple[Weights, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = [(ids.shape, weights.shape) for ids, weights in zip(self.sequences, self.weights, strict=True)]
        if not shapes or any(ids != weights or len(ids) != 1 or ids[0] < 2 for ids, weights in shapes):
            raise ValueError(
                f"an example has ids and weights of {shapes}; expected the same (n,) of both, n at least 2"
            )
        if any(weights[0] for weights in self.weights):
            raise ValueError("the first id of a sequence has a weight, expected 0: nothing predicts it")

    @property
    def input_count(self) -> int:
        """Places that the example takes in a packed sequence: the last id of a sequence is a label alone."""
        return sum(ids.size - 1 for ids in self.sequences)

    def places(self, *, share_prompts: bool = False, last_ids: bool = False) -> int:
        """The same, of one whose sequences share their beginning, or whose last ids are inputs too."""
        others = len(self.sequences) - 1
        return self.input_count - share_prompts * others * self.shared + last_ids * (others + 1)

    @cached_property
    def shared(self) -> int:
        """How many places at their beginning the sequences can share: equal ids, behind which no label counts.

        The last id of a prompt is not among them, since each sequence has another label there.
        """
        if len(self.sequences) == 1:
            return 0
        pairs = zip(self.sequences, self.weights, strict=True)
        most = min(min(prompt_length(weights), ids.size - 1) - 1 for ids, weights in pairs)
        first = self.sequences[0][:most]
        differs = np.any([ids[:most] != first for ids in self.sequences[1:]], axis=0)
        return int(differs.argmax()) if differs.any() else most
