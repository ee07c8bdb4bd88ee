"""Examples lie in a packed batch one behind the other, and see and train what they did alone."""

import numpy as np
import pytest
import torch

from litespark.data.examples.batch import PADDING, pack
from litespark.data.examples.example import Example
from litespark.data.loss_mask import IGNORE_INDEX


def example(*sequences, **about):
    """Sequences of (id, weight) pairs."""
    ids, weights = zip(*(zip(*pairs, strict=True) for pairs in sequences), strict=True)
    return Example(
        tuple(np.array(of, dtype=np.int32) for of in ids),
        tuple(np.array(of, dtype=np.float32) for of in weights),
        about,
    )


PAIR = example([(5, 0), (6, 0), (7, 1), (1, 1)], [(5, 0), (6, 0), (8, 0.5)], margin=2)
SHORT = example([(3, 0), (4, 1)], margin=-1)


def test_examples_are_laid_out_without_cutting_and_without_padding_between():
    batch = pack([[(10, PAIR), (3, SHORT)], [(4, SHORT)]], 8, fill_id=9, columns=["margin"])
    assert batch.tokens.tolist() == [[5, 6, 7, 5, 6, 3, 9, 9], [3, 9, 9, 9, 9, 9, 9, 9]]
    none = IGNORE_INDEX
    assert batch.labels.tolist() == [[none, 7, 1, none, 8, 4, none, none], [4, *[none] * 7]]
    assert batch.weights.tolist() == [[0, 1, 1, 0, 0.5, 1, 0, 0], [1, *[0] * 7]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, 2, 3, 3], [0, *[1] * 7]]
    assert batch.cu_seqlens[:7].tolist() == [0, 3, 5, 6, 8, 9, 16]
    assert batch.cu_seqlens.unique().tolist() == [0, 3, 5, 6, 8, 9, 16]
    assert batch.sequence_of.tolist() == [[0, 0, 0, 1, 1, 2, PADDING, PADDING], [3, *[PADDING] * 7]]
    assert batch.last_places.tolist() == [2, 4, 5, 8]
    assert batch.examples.tolist() == [10, 3, 4]
    assert batch.about["margin"].tolist() == [2, -1, -1]
    assert (batch.token_count, batch.supervised_count, batch.weight_sum) == (7, 5, 4.5)
    assert batch.attention_pairs == 6 + 3 + 1 + 1
    assert (batch.example_count, batch.sequence_count) == (3, 4)


def test_sums_are_of_each_sequence_and_have_gradients():
    batch = pack([[(0, PAIR), (1, SHORT)]], 8, fill_id=9)
    values = torch.arange(1.0, 9.0).view(1, 8).requires_grad_()
    sums = batch.sums(values)
    assert sums.tolist() == [6, 9, 6]
    (sums * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert values.grad.tolist() == [[1, 1, 1, 10, 10, 100, 0, 0]]


def test_every_tensor_of_a_batch_moves_with_it():
    batch = pack([[(0, PAIR)]], 8, fill_id=9, columns=["margin"]).to("meta")
    tensors = [*batch.about.values(), *(held for held in vars(batch).values() if isinstance(held, torch.Tensor))]
    assert len(tensors) == 10
    assert all(tensor.is_meta for tensor in tensors)


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="examples of 6 places were laid into a sequence of 5"):
        pack([[(0, PAIR), (1, SHORT)]], 5, fill_id=9)
    with pytest.raises(ValueError, match="n at least 2"):
        example([(5, 0)])
    with pytest.raises(ValueError, match="nothing predicts it"):
        example([(5, 1), (6, 1)])
