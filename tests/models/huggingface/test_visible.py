"""What queries see in a model that `litespark.apply` was applied to: documents, windows, padding, other masks."""

import pytest
import torch
from transformers import DataCollatorWithFlattening

import litespark
from litespark.models.huggingface.attention import Visible, _mask, _seen
from tests.models.huggingface.families import build

_LENGTH = 20


@pytest.fixture(scope="module")
def model():
    model = build("mistral").train()  # with a window of 6 keys
    litespark.apply(model)
    return model


def _gradient_of_inputs(model, at: int, positions=None, **extra) -> torch.Tensor:
    """(S,): how much the answer at one place depends on each token."""
    tokens = torch.arange(3, 3 + _LENGTH).unsqueeze(0)
    inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
    hidden = model.model(inputs_embeds=inputs, position_ids=positions, use_cache=False, **extra).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden[0, at].sum(), inputs)
    return gradient[0].norm(dim=-1)


def test_documents_of_a_packed_sequence_do_not_see_each_other(model):
    packed = torch.tensor([[*range(9), *range(11)]])
    assert (_gradient_of_inputs(model, 9, packed) != 0).nonzero().flatten().tolist() == [9]
    assert (_gradient_of_inputs(model, 8, packed) != 0).nonzero().flatten().tolist() == list(range(9))


@pytest.mark.parametrize("attention", ["sdpa", "reference"])  # ours, and that of transformers
@pytest.mark.parametrize("positions", [False, True])
def test_a_flattened_batch_gives_what_each_sequence_gives_alone(attention, positions):
    ours, theirs = build("mistral").train(), build("mistral")
    litespark.apply(ours, {"attention": attention})
    sequences = [[5, 6, 7, 8, 9], [11, 12, 13], list(range(20, 32))]
    collate = DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, return_seq_idx=True, return_position_ids=positions
    )
    with torch.no_grad():
        got = ours(**collate([{"input_ids": ids} for ids in sequences]), skip_logits=False).logits
        expected = torch.cat([theirs(torch.tensor([ids])).logits for ids in sequences], dim=1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


_ENDS = torch.tensor([0, 9, 20])


def test_documents_are_those_of_lengths_and_of_positions_both(model):
    thirds = torch.tensor([[*range(9), *range(5), *range(6)]])
    ends = {"cu_seq_lens_q": _ENDS, "cu_seq_lens_k": _ENDS.clone()}
    assert (_gradient_of_inputs(model, 13, thirds, **ends) != 0).nonzero().flatten().tolist() == [9, 10, 11, 12, 13]
    assert (_gradient_of_inputs(model, 13, None, **ends) != 0).nonzero().flatten().tolist() == [9, 10, 11, 12, 13]
    assert (_gradient_of_inputs(model, 14, thirds, **ends) != 0).nonzero().flatten().tolist() == [14]
    # the same tensors, filled for the next batch
    for given in ends.values():
        given[1] = 12
    assert (_gradient_of_inputs(model, 13, None, **ends) != 0).nonzero().flatten().tolist() == [12, 13]


@pytest.mark.parametrize(
    ("query", "key", "match"),
    [
        ([0, 9, 20], [0, 8, 20], r"cu_seq_lens_q \[0, 9, 20\] \(3,\) and cu_seq_lens_k \[0, 8, 20\] .* both alike"),
        ([0, 9, 21], [0, 9, 21], "for 1 x 20 tokens and 20 keys; expected .* from 0 to 20 without a fall"),
        ([1, 9, 20], [1, 9, 20], "expected both alike, from 0 to 20"),
        ([0, 9, 5, 20], [0, 9, 5, 20], "without a fall"),
        ([0, 9, 20], [0, 20], "expected both alike"),
        ([0, 9, 20], None, "expected two tensors, or neither: pass both"),
    ],
)
def test_lengths_that_fit_neither_the_sequences_nor_each_other_are_refused(model, query, key, match):
    query, key = (None if ends is None else torch.tensor(ends) for ends in (query, key))
    for call in (model, model.model):
        with pytest.raises(ValueError, match=match):
            call(torch.arange(20)[None], cu_seq_lens_q=query, cu_seq_lens_k=key)


def test_sequences_of_a_batch_begin_with_a_length_of_their_own(model):
    ends = torch.tensor([0, 9, 25, 40])
    with pytest.raises(ValueError, match="each sequence at a number of its own"):
        model(torch.zeros(2, 20, dtype=torch.int64), cu_seq_lens_q=ends, cu_seq_lens_k=ends)


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
