"""The plain references: gradients against finite differences, and facts that follow from each op's definition."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.ops.linear_cross_entropy.reference import linear_cross_entropy
from litespark.ops.rms_norm.reference import add_rms_norm, rms_norm
from litespark.ops.rope.reference import RopeScaling, inverse_frequencies, rope, rope_qkv, rope_tables
from litespark.ops.swiglu.reference import swiglu, swiglu_linear
from litespark.ops.tolerance import relative_distance


def _random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


TABLES = rope_tables(torch.tensor([[0, 1, 0, 5]]), inverse_frequencies(4, 100.0).double())
QKV = [(1, 4, 4, 2), (1, 4, 2, 2), (1, 4, 2, 2)]
HIDDEN_AND_WEIGHT = [(2, 3, 4), (7, 4)]
LABELS = torch.tensor([[1, -100, 6], [0, 2, -100]])


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (lambda x, weight: rms_norm(x, weight, 1e-5), [(3, 5), (5,)]),
        (lambda x, update, weight: add_rms_norm(x, update, weight, 1e-5), [(3, 5), (3, 5), (5,)]),
        (swiglu, [(3, 8)]),
        (swiglu_linear, [(3, 8), (5, 4)]),
        (lambda gate_up: swiglu(gate_up, "gelu_tanh"), [(3, 8)]),
        (lambda qkv: rope_qkv(qkv, *TABLES, 1), [(2, 4, 5, 4)]),
        (lambda qkv: rope_qkv(qkv, *TABLES, 0), [(2, 4, 3, 7)]),
        (lambda qkv: rope_qkv(qkv, *TABLES, 1, interleaved=True), [(2, 4, 5, 7)]),
        (lambda *qkv: attention(*qkv, None, 2), QKV),
        (lambda *qkv: attention(*qkv, scale=1.5, softcap=2.0), QKV),
        (lambda *qkv: attention(*qkv, Documents(torch.tensor([[0, 0, 1, 1]]))), QKV),
        (lambda *inputs: linear_cross_entropy(*inputs, LABELS), HIDDEN_AND_WEIGHT),
        (lambda *inputs: linear_cross_entropy(*inputs, LABELS, reduction="none").nats, HIDDEN_AND_WEIGHT),
        (
            lambda *inputs: linear_cross_entropy(*inputs, LABELS, reduction="mean", z_loss=0.1, softcap=2.0),
            HIDDEN_AND_WEIGHT,
        ),
    ],
)
def test_gradients_are_those_of_finite_differences(op, shapes):
    assert gradcheck(op, [_random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)])


def test_rms_norm_has_unit_mean_square_times_weight():
    y = rms_norm(_random(4, 64) * 7, torch.full((64,), 3.0, dtype=torch.float64), 1e-12)
    torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.full((4,), 3.0, dtype=torch.float64))


def test_rms_norm_survives_squares_beyond_fp16():
    x = torch.full((1, 8), 6e4, dtype=torch.float16)
    torch.testing.assert_close(rms_norm(x, torch.ones(8, dtype=torch.float16), 1e-5), torch.ones_like(x))


def test_swiglu_gates_with_the_first_half():
    gate, up = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 5.0]])
    expected = torch.tensor([[3 / (1 + math.exp(-1)), -10 / (1 + math.exp(2))]])
    torch.testing.assert_close(swiglu(torch.cat((gate, up), dim=-1)), expected)


def test_geglu_is_the_gate_by_the_normal_distribution_times_up():
    gate, up = _random(5, 4), _random(5, 4, seed=1)
    expected = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2 * up
    found = swiglu(torch.cat((gate, up), dim=-1), "gelu_tanh")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # by which the approximation differs
    gate, up = torch.tensor([[1.5]]), torch.tensor([[2.0]])
    tanh = math.tanh(math.sqrt(2 / math.pi) * (1.5 + 0.044715 * 1.5**3))
    torch.testing.assert_close(swiglu(torch.cat((gate, up), dim=-1), "gelu_tanh"), 1.5 * (1 + torch.tensor([[tanh]])))


def test_rope_of_a_part_of_a_head_leaves_its_other_values():
    query, key = _random(2, 4, 3, 7), _random(2, 4, 1, 7, seed=1)
    for x, found in zip((query, key), rope(query, key, *TABLES), strict=True):
        assert torch.equal(found[..., 4:], x[..., 4:])
        whole, _ = rope(x[..., :4], x[..., :4], *TABLES)
        assert torch.equal(found[..., :4], whole)


def test_interleaved_rope_is_that_of_halves_whose_neighbours_are_put_side_by_side():
    query, key = _random(2, 4, 3, 7), _random(2, 4, 1, 7, seed=1)
    order = [0, 2, 1, 3, 4, 5, 6]  # (0, 1) and (2, 3) are the pairs
    of_halves = rope(query[..., order], key[..., order], *TABLES)
    for found, halves in zip(rope(query, key, *TABLES, interleaved=True), of_halves, strict=True):
        assert torch.equal(found, halves[..., order])


def test_rope_pairs_the_halves_of_a_head():
    x = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 4)
    rotated, _ = rope(x, x, *rope_tables(torch.tensor([[1]]), torch.tensor([math.pi / 2, 0.0])))
    torch.testing.assert_close(rotated.flatten(), torch.tensor([0.0, 0.0, 1.0, 0.0]))


def test_rope_scaling_keeps_short_and_stretches_long_wavelengths():
    scaling = RopeScaling(8.0, 1.0, 4.0, 8192)
    plain, scaled = inverse_frequencies(128, 5e5), inverse_frequencies(128, 5e5, scaling)
    wavelengths = 2 * math.pi / plain
    short, long = wavelengths < 8192 / 4, wavelengths > 8192
    assert torch.equal(scaled[short], plain[short])
    torch.testing.assert_close(scaled[long], plain[long] / 8)
    between = ~short & ~long
    assert bool((scaled[between] < plain[between]).all())
    assert bool((scaled[between] > plain[between] / 8).all())
    assert min(int(part.sum()) for part in (short, long, between)) > 0


def test_impossible_rope_scaling_is_refused():
    with pytest.raises(ValueError, match=r"factor: got 0\.0, expected a number above 0"):
        RopeScaling(factor=0.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_max_seq_len=8192)
    with pytest.raises(ValueError, match=r"low_frequency_factor: got 4\.0, expected a number below high_"):
        RopeScaling(factor=8.0, low_frequency_factor=4.0, high_frequency_factor=4.0, original_max_seq_len=8192)


@pytest.mark.parametrize(("scale", "softcap"), [(None, None), (0.8, None), (None, 1.5), (0.8, 1.5)])
def test_attention_equals_a_loop_over_queries_and_heads(scale, softcap):
    query, key, value = _random(2, 3, 4, 8), _random(2, 5, 2, 8, seed=1), _random(2, 5, 2, 8, seed=2)
    output = attention(query, key, value, scale=scale, softcap=softcap)
    for sequence in range(2):
        for position in range(3):
            for head in range(4):
                # two cached keys come before the first query
                seen = slice(0, position + 3)
                scores = key[sequence, seen, head // 2] @ query[sequence, position, head] * (scale or 8**-0.5)
                scores = scores if softcap is None else softcap * (scores / softcap).tanh()
                expected = scores.softmax(0) @ value[sequence, seen, head // 2]
                torch.testing.assert_close(output[sequence, position, head], expected)


def test_documents_of_a_sequence_do_not_see_each_other():
    inputs = _random(1, 6, 2, 4), _random(1, 6, 1, 4, seed=1), _random(1, 6, 1, 4, seed=2)
    found = attention(*inputs, Documents(torch.tensor([[0, 0, 1, 2, 2, 2]])))
    for document in (slice(0, 2), slice(2, 3), slice(3, 6)):
        torch.testing.assert_close(found[:, document], attention(*(x[:, document] for x in inputs)))


def test_a_window_hides_what_is_further_away():
    query, key, value = _random(1, 6, 2, 4), _random(1, 6, 1, 4, seed=1), _random(1, 6, 1, 4, seed=2)
    found = attention(query, key, value, None, 3)
    for last in range(6):
        seen = slice(max(0, last - 2), last + 1)
        # of the last query of a sequence that holds only what it sees
        alone = attention(query[:, seen], key[:, seen], value[:, seen])[:, -1]
        torch.testing.assert_close(found[:, last], alone)


def _zeros(*sizes):
    return [torch.zeros(1, length, heads, 8) for length, heads in sizes]


@pytest.mark.parametrize(
    ("tensors", "documents", "window", "message"),
    [
        (_zeros((4, 3), (4, 2), (4, 2)), None, None, "K dividing H"),
        (_zeros((4, 2), (3, 2), (3, 2)), None, None, "T at least S"),
        (_zeros((4, 2), (4, 2), (5, 2)), None, None, "value"),
        (_zeros((3, 1), (3, 1), (3, 1)), None, 0, "window is 0, expected at least 1"),
        (_zeros((4, 2), (4, 2), (4, 2)), 3, None, "documents .* expected"),
        (_zeros((2, 2), (4, 2), (4, 2)), 4, None, "cached keys"),
    ],
)
def test_attention_refuses_what_does_not_fit(tensors, documents, window, message):
    packed = None if documents is None else Documents(torch.zeros(1, documents, dtype=torch.int32))
    with pytest.raises(ValueError, match=message):
        attention(*tensors, packed, window)


def test_linear_cross_entropy_equals_the_formula_and_leaves_out_what_is_ignored():
    hidden, weight, labels = _random(2, 3, 4), _random(7, 4, seed=1), LABELS
    losses = linear_cross_entropy(hidden, weight, labels, reduction="none")
    probabilities = (hidden @ weight.T).softmax(-1)
    for place in [(0, 0), (0, 2), (1, 0), (1, 1)]:
        torch.testing.assert_close(losses.nats[place], -probabilities[place][labels[place]].log())
    assert losses.nats[0, 1] == 0
    assert losses.nats[1, 2] == 0
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels), losses.nats.sum())
    marked = linear_cross_entropy(torch.eye(3), torch.eye(3), torch.tensor([0, 2, -100]), reduction="none")
    assert marked.correct.tolist() == [True, False, False]
    narrow = hidden.bfloat16().requires_grad_()
    nothing = linear_cross_entropy(narrow, weight.bfloat16(), torch.full_like(labels, -100))
    nothing.backward()
    assert (nothing.item(), nothing.dtype) == (0, torch.float32)
    assert not narrow.grad.any()


def test_linear_cross_entropy_adds_the_z_loss_and_caps_logits():
    hidden, weight, labels = _random(1, 3, 4), _random(7, 4, seed=1), torch.tensor([[1, -100, 6]])
    capped = 2 * torch.tanh(hidden[0] @ weight.T / 2)
    lse = capped.logsumexp(-1)
    nats = (lse - capped[range(3), [1, 0, 6]])[[0, 2]].sum()
    squares = lse[[0, 2]].square().sum()
    found = linear_cross_entropy(hidden, weight, labels, z_loss=0.5, softcap=2.0)
    torch.testing.assert_close(found, nats + 0.5 * squares)
    mean = linear_cross_entropy(hidden, weight, labels, reduction="mean", softcap=2.0)
    torch.testing.assert_close(mean, nats / 2)


@pytest.mark.parametrize("op", [lambda x: rms_norm(x, torch.ones(32, dtype=x.dtype), 1e-5), swiglu])
def test_low_precision_inputs_are_computed_in_fp32(op):
    x = _random(64, 32).bfloat16()
    # half a unit in the last place of bf16 is 2^-9: only the final rounding is left
    assert relative_distance(op(x), op(x.float())) < 2**-9
    assert op(x).dtype == torch.bfloat16
