"""The batch of post-training: examples packed without padding between them, each sequence a document of its own, or of
an example whose sequences share their beginning, one of its branches.

B packed sequences of a micro-batch, S their length, E examples in it, N sequences of them (2·E of pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from litespark.data.batch import TokenBatch, padded_cu_seqlens
from litespark.data.examples.example import Example
from litespark.data.loss_mask import IGNORE_INDEX

PADDING = -1
"""Of `sequence_of`: a place that no sequence has for itself."""


@dataclass(kw_only=True)
class ExampleBatch(TokenBatch):
    """A `TokenBatch` whose documents are the sequences of examples, in order; padding is one document more."""

    weights: Tensor
    """(B, S) fp32, by how much each label counts; 0 where it is IGNORE_INDEX."""
    sequence_of: Tensor
    """(B, S) int64, which of the N sequences a place belongs to, numbered through the batch; PADDING: none, or several,
    in which case no label counts there."""
    last_places: Tensor
    """(N,) int64, where in the B·S flattened places the last input of each sequence stands."""
    examples: Tensor
    """(E,) int64, the number of each example in its split."""
    weight_sum: float
    """Of all weights."""
    about: dict[str, Tensor]
    """Columns of the examples that a task reads, (E,) each."""
    last_ids: bool = False
    """Whether the last id of each sequence is an input too, as a reward is read there; it has no label."""
    reference: Tensor | None = None
    """(N,) fp32, the log-probability of each sequence under the reference model; None: the task needs none."""

    @property
    def example_count(self) -> int:
        return len(self.examples)

    @property
    def sequence_count(self) -> int:
        return len(self.last_places)

    def sums(self, values: Tensor) -> Tensor:
        """(B, S) -> (N,): the sum over the places of each sequence, differentiable."""
        of, places = values.flatten(), self.sequence_of.flatten()
        sums = of.new_zeros(self.sequence_count + 1)  # padding is added behind the last
        return sums.index_add(0, torch.where(places == PADDING, self.sequence_count, places), of)[:-1]


def pack(
    rows: Sequence[Sequence[tuple[int, Example]]],
    seq_len: int,
    *,
    fill_id: int,
    columns: Sequence[str] = (),
    last_ids: bool = False,
    share_prompts: bool = False,
) -> ExampleBatch:
    """Lay rows of numbered examples out as packed sequences of `seq_len`; what stays free is filled with `fill_id`.

    A ValueError where a row does not fit: nothing is cut. `columns` of `about` become tensors, fp32.
    With `last_ids` each sequence takes a place more, for its last id. With `share_prompts` what the sequences of an
    example have in common (`Example.shared`) is laid out once and the rest of each behind it, as branches.
    """
    shape = (len(rows), seq_len)
    tokens = np.full(shape, fill_id, dtype=np.int64)
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    positions = np.zeros(shape, dtype=np.int64)
    documents = np.zeros(shape, dtype=np.int32)
    sequence_of = np.full(shape, PADDING, dtype=np.int64)
    branches = np.zeros(shape, dtype=np.int32)
    taken = attention_pairs = 0
    starts: list[int] = []
    last: list[int] = []
    for row, held in enumerate(rows):
        place = document = 0
        places = sum(example.places(share_prompts=share_prompts, last_ids=last_ids) for _, example in held)
        if places > seq_len:
            raise ValueError(
                f"examples of {places} places were laid into a sequence "
                f"of {seq_len}; leave out or shorten those that do not fit before they are packed"
            )
        for _, example in held:
            shared = example.shared if share_prompts else 0
            begin, place = place, place + shared
            attention_pairs += shared * (shared + 1) // 2
            for branch, (ids, of) in enumerate(zip(example.sequences, example.weights, strict=True)):
                size = ids.size - shared - (not last_ids)
                end = place + size
                if branch == 0 and shared:
                    common = (row, slice(begin, place))
                    tokens[common], positions[common], documents[common] = ids[:shared], np.arange(shared), document
                here = (row, slice(place, end))
                labelled, kept = (row, slice(place, place + ids.size - shared - 1)), of[shared + 1 :]
                tokens[here], weights[labelled] = ids[shared : shared + size], kept
                labels[labelled] = np.where(kept != 0, ids[shared + 1 :], IGNORE_INDEX)
                positions[here], documents[here] = np.arange(shared, shared + size), document
                sequence_of[here] = len(last)
                branches[here] = branch + 1 if shared else 0
                attention_pairs += size * shared + size * (size + 1) // 2
                last.append(row * seq_len + end - 1)
                if not shared or branch == 0:
                    starts.append(row * seq_len + begin)
                place = end
                if not shared:
                    begin, document = end, document + 1
            document += shared > 0
        taken += place
        if place < seq_len:
            positions[row, place:], documents[row, place:] = np.arange(seq_len - place), document
            starts.append(row * seq_len + place)
    numbered = [pair for held in rows for pair in held]
    return ExampleBatch(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        positions=torch.from_numpy(positions),
        documents=torch.from_numpy(documents),
        token_count=taken,
        supervised_count=int(np.count_nonzero(labels != IGNORE_INDEX)),
        attention_pairs=attention_pairs,
        cu_seqlens=padded_cu_seqlens(np.array(starts), tokens.size),
        branches=torch.from_numpy(branches) if share_prompts else None,
        weights=torch.from_numpy(weights),
        sequence_of=torch.from_numpy(sequence_of),
        last_places=torch.tensor(last, dtype=torch.int64),
        examples=torch.tensor([number for number, _ in numbered], dtype=torch.int64),
        last_ids=last_ids,
        weight_sum=float(weights.sum(dtype=np.float64)),
        about={
            name: torch.tensor([float(example.about[name]) for _, example in numbered], dtype=torch.float32)
            for name in columns
        },
    )
