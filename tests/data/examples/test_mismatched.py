"""Rated completions have a second sequence, with the completion of another example."""

import numpy as np

from litespark.data.examples.example import Example
from litespark.data.examples.mismatched import Mismatched


def rated(prompt, completion, rating):
    ids = np.array([*prompt, *completion], dtype=np.int32)
    weights = np.array([0.0] * len(prompt) + [1.0] * len(completion), dtype=np.float32)
    return Example((ids,), (weights,), {"desirable": rating})


EXAMPLES = [rated([5], [6, 1], 1.0), rated([7, 8], [9, 10, 1], 0.0), rated([11], [12, 1], 1.0)]


def paired(examples, seq_len):
    mismatched = Mismatched(seq_len)
    whole = [done for example in examples for done in mismatched.add(example)] + mismatched.rest()
    return whole, [[ids.tolist() for ids in example.sequences] for example in whole]


def test_each_has_the_completion_before_it_and_the_first_that_of_the_second():
    whole, ids = paired(EXAMPLES, 64)
    assert ids == [[[5, 6, 1], [5, 9, 10, 1]], [[7, 8, 9, 10, 1], [7, 8, 6, 1]], [[11, 12, 1], [11, 9, 10, 1]]]
    assert [of.tolist() for of in whole[1].weights] == [[0, 0, 1, 1, 1], [0, 0, 1, 1]]
    assert [example.about["desirable"] for example in whole] == [1, 0, 1]


def test_it_is_cut_where_an_example_leaves_no_room_and_its_own_where_there_is_one():
    assert paired(EXAMPLES[:2], 6)[1][0] == [[5, 6, 1], [5, 9, 10]]
    assert paired(EXAMPLES[:1], 64)[1] == [[[5, 6, 1], [5, 6, 1]]]
