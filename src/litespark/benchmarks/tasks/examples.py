"""The examples of each step, which every variant of a task takes: what our data module serves, as ids."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litespark.data.examples.batch import ExampleBatch
from litespark.data.examples.example import Example


@dataclass(frozen=True)
class StepExamples:
    """The numbered examples of a step, by the packed sequence in which they lie."""

    rows: list[list[tuple[int, Example]]]

    @property
    def all(self) -> list[tuple[int, Example]]:
        return list(itertools.chain.from_iterable(self.rows))

    @property
    def inputs(self) -> int:
        """Tokens that are read to predict others; a prompt of a pair counts in each of its sequences."""
        return sum(ids.size - 1 for _, example in self.all for ids in example.sequences)


def steps_of(data: Any, count: int) -> list[StepExamples]:
    """The examples of the first `count` micro-batches of a data module of examples."""
    held = data.examples("train")
    return [_step(batch, held, data.seq_len) for batch in itertools.islice(data.train_dataloader(), count)]


def _step(batch: ExampleBatch, held: Any, seq_len: int) -> StepExamples:
    rows: dict[int, list[tuple[int, Example]]] = {}
    each = batch.sequence_count // batch.example_count
    last = (batch.last_places[::each] // seq_len).tolist()
    for row, number in zip(last, batch.examples.tolist(), strict=True):
        rows.setdefault(row, []).append((number, held[number]))
    return StepExamples(list(rows.values()))


def examples_hash(steps: Sequence[StepExamples]) -> str:
    """Sixteen hex digits of the ids of all examples in their order."""
    digest = hashlib.sha256()
    for step in steps:
        for _, example in step.all:
            for ids in example.sequences:
                digest.update(ids.tobytes())
    return digest.hexdigest()[:16]
