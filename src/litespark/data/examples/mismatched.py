"""The second sequence of a rated completion: its prompt with the completion of another example.

From these KTO estimates how far the policy is from the reference (arXiv:2402.01306, section 4.1). Each example has the
completion of the one before it and the first that of the second, so what belongs together is fixed by the data.
"""

import dataclasses

import numpy as np

from litespark.data.examples.example import Example, prompt_length


class Mismatched:
    """Adds the second sequences, which are cut where they are longer than the room that an example leaves."""

    def __init__(self, seq_len: int) -> None:
        self.seq_len = seq_len
        self._first: Example | None = None
        self._before: Example | None = None

    def add(self, example: Example) -> list[Example]:
        """The examples that are whole with this one, in order; the first one waits for the second."""
        before, self._before = self._before, example
        if before is None:
            self._first = example
            return []
        first, self._first = self._first, None
        return [*([] if first is None else [self._with(first, example)]), self._with(example, before)]

    def rest(self) -> list[Example]:
        """The first example where it is the only one: with its own completion."""
        return [] if self._first is None else [self._with(self._first, self._first)]

    def _with(self, example: Example, other: Example) -> Example:
        (ids,), (weights,) = example.sequences, example.weights
        prompt, begin = prompt_length(weights), prompt_length(other.weights[0])
        end = begin + self.seq_len - ids.size - prompt
        mismatched = np.concatenate([ids[:prompt], other.sequences[0][begin:end]])
        of = np.concatenate([weights[:prompt], other.weights[0][begin:end]])
        return dataclasses.replace(example, sequences=(ids, mismatched), weights=(weights, of))
