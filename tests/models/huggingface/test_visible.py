"""What queries see in a model that `litespark.apply` was applied to: documents, windows, padding, other masks."""

import pytest
import torch

import litespark
from litespark.models.huggingface.attention import Visible, _mask, _seen
from tests.models.huggingface.families import build

_LENGTH = 20


@pytest.fixture(scope="module")
def model():
    model = build("mistral").train()  # with a window of 6 keys
    litespark.apply(model)
    return model


def _gradient_of_inputs(model, at: int, positions=None) -> torch.Tensor:
    """(S,): how much the answer at one place depends on each token."""
    tokens = torch.arange(3, 3 + _LENGTH).unsqueeze(0)
    inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
    hidden = model.model(inputs_embeds=inputs, position_ids=positions, use_cache=False).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden[0, at].sum(), inputs)
    return gradient[0].norm(dim=-1)


def test_documents_of_a_packed_sequence_do_not_see_each_other(model):
    packed = torch.tensor([[*range(9), *range(11)]])
    assert (_gradient_of_inputs(model, 9, packed) != 0).nonzero().flatten().tolist() == [9]
    assert (_gradient_of_inputs(model, 8, packed) != 0).nonzero().flatten().tolist() == list(range(9))


def test_a_window_ends_where_transformers_ends_it(model):
    # three layers of six keys each: the furthest token is three times five away
    seen = (_gradient_of_inputs(model, 19) != 0).nonzero().flatten().tolist()
    assert seen == list(range(19 - 15, 20))


def test_no_mask_is_made_for_windows_packed_sequences_and_padding():
    from transformers.masking_utils import (
        and_masks,
        causal_mask_function,
        packed_sequence_mask_function,
        sliding_window_causal_mask_function,
    )

    index = torch.tensor([[0, 0, 1, 1, 1]])
    packed = and_masks(sliding_window_causal_mask_function(3), packed_sequence_mask_function(index))
    seen = _seen(packed)
    assert seen == Visible(seen.documents, 3)
    assert seen.documents.index is index

    padded = torch.tensor([[False, False, True, True, True]])
    sizes = {"batch_size": 1, "q_length": 5, "kv_length": 5, "mask_function": causal_mask_function}
    assert isinstance(_mask(**sizes, attention_mask=padded), Visible)
    assert _mask(**sizes, attention_mask=torch.ones(1, 5, dtype=torch.bool)) == Visible()


def test_a_mask_that_says_anything_else_is_made_as_transformers_makes_it():
    from transformers.masking_utils import causal_mask_function, or_masks, sdpa_mask

    def first_three(batch, head, query, key):
        return key < 3

    sizes = {"batch_size": 1, "q_length": 5, "kv_length": 5}
    other = or_masks(causal_mask_function, first_three)
    assert _mask(**sizes, mask_function=other).equal(
        sdpa_mask(**sizes, mask_function=other, allow_is_causal_skip=False)
    )
    # padding between tokens: those behind it see over it
    holes = torch.tensor([[True, False, True, True, True]])
    got = _mask(**sizes, mask_function=causal_mask_function, attention_mask=holes)
    assert got[0, 0, 4].tolist() == holes[0].tolist()
