"""Rotary embedding in Triton against its reference: every use, stride and refusal."""

import pytest
import torch

from litespark.ops.backend import load
from litespark.ops.rope import reference
from litespark.ops.rope.reference import inverse_frequencies, rope_tables
from litespark.ops.tolerance import fresh_memory_is_nan, relative_distance
from tests.ops.assertions import assert_op_matches

pytest.importorskip("triton")
from litespark.ops.rope.function import rope_qkv_triton
from tests.properties import Phase, given, settings, st

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _tables(sequences, length, width, device):
    """cos and sin of documents packed in sequences, whose positions begin anew."""
    positions = torch.randint(0, 200, (sequences, length), generator=torch.Generator().manual_seed(1))
    cos, sin = rope_tables(positions, inverse_frequencies(width, 10000.0))
    return cos.to(device), sin.to(device)


def _qkv(batch, length, heads, width):
    # as the projection hands it over
    return _random(batch, length, heads * width).unflatten(-1, (heads, width))


def _inputs(batch, length, heads, num_kv_heads, width, device, sequences=None, rotated=None):
    cos, sin = _tables(sequences or batch, length, rotated or width, device)
    qkv = _qkv(batch, length, heads + 2 * num_kv_heads, width).to(device)
    return {"qkv": qkv, "fixed cos": cos, "fixed sin": sin}


def _of(op, num_kv_heads, interleaved=False):
    return lambda qkv, cos, sin: op(qkv, cos, sin, num_kv_heads, interleaved)


@pytest.mark.parametrize("dtype", DTYPES)
# a failure is not made smaller: that takes minutes in the interpreter
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([1, 3, 16, 48, 128]),
    st.booleans(),
)
def test_qkv_matches_the_reference_at_any_size(dtype, batch, length, heads, num_kv_heads, half, per_sequence):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = _inputs(batch, length, heads, num_kv_heads, 2 * half, device, sequences=batch if per_sequence else 1)
    assert_op_matches(_of(rope_qkv_triton, num_kv_heads), _of(reference.rope_qkv, num_kv_heads), inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["triton", "cpu"])
# several blocks of heads, widths that are odd, and more values that pass than are rotated
@pytest.mark.parametrize(
    ("heads", "num_kv_heads", "width", "rotated", "interleaved"),
    [
        (3, 2, 10, 4, False), (5, 0, 16, 16, False), (20, 1, 129, 64, False), (4, 0, 100, 6, False),
        (3, 2, 16, 16, True), (20, 1, 33, 18, True), (4, 0, 100, 6, True),
    ],
)  # fmt: skip
def test_variants_of_what_is_rotated_equal_the_reference(
    backend, heads, num_kv_heads, width, rotated, interleaved, dtype, device
):
    inputs = _inputs(2, 3, heads, num_kv_heads, width, device, rotated=rotated)
    op = load("rope", backend)
    both = (_of(each, num_kv_heads, interleaved) for each in (op, reference.rope_qkv))
    assert_op_matches(*both, inputs, dtype)
    outputs = op(inputs["qkv"], inputs["fixed cos"], inputs["fixed sin"], num_kv_heads, interleaved)
    assert [x.shape for x in outputs] == [(2, 3, count, width) for count in (heads, num_kv_heads, num_kv_heads)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used", [(0,), (1, 2), (0, 1, 2)])
def test_the_backend_for_cpus_equals_the_reference(dtype, used, device):
    inputs = _inputs(2, 5, 4, 2, 16, device)

    def some(op):
        return lambda *given: tuple(op(*given, 2)[index] for index in used)

    assert_op_matches(some(load("rope", "cpu")), some(reference.rope_qkv), inputs, dtype)


def test_results_are_contiguous_and_nothing_of_the_size_of_qkv_is_kept(device):
    inputs = _inputs(2, 3, 3, 2, 8, device)
    qkv = inputs["qkv"].requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()), lambda x: x):
        results = rope_qkv_triton(qkv, inputs["fixed cos"], inputs["fixed sin"], 2)
    assert sorted(saved) == [2 * 3 * 4] * 2
    assert all(x.is_contiguous() for x in results)
    assert len({x.untyped_storage().data_ptr() for x in (*results, qkv)}) == 4


@pytest.mark.parametrize("used", [(0,), (1, 2)])
def test_outputs_without_a_gradient_count_as_zeros(used, device):
    inputs = _inputs(2, 3, 3, 2, 8, device)
    gradients = []
    for op in (rope_qkv_triton, reference.rope_qkv):
        qkv = inputs["qkv"].detach().requires_grad_()
        results = op(qkv, inputs["fixed cos"], inputs["fixed sin"], 2)
        with fresh_memory_is_nan():
            # a sum has a gradient of strides 0, that of a transposition others
            sum(
                (results[index].transpose(1, 2).contiguous().sin() if index else results[index]).sum() for index in used
            ).backward()
        gradients.append(qkv.grad)
    assert relative_distance(*gradients) <= 1e-6


def test_sequences_and_heads_may_lie_beyond_2_31_values(device):
    """Three of them 2^30 values apart; memory that is not touched takes no room on a CPU."""
    stride = 2**30 + 8
    try:
        memory = torch.empty(2 * stride + 64, dtype=torch.float16, device=device)
    except RuntimeError:
        pytest.skip("there is no room for 4 GiB")
    for sequences, strides in ((3, (stride, 32, 4, 1)), (1, (32, 32, stride, 1))):
        tables = _tables(sequences, 1, 4, device)
        qkv = memory.as_strided((sequences, 1, 3, 4), strides)
        qkv.copy_(_random(sequences, 1, 3, 4))
        found, expected = rope_qkv_triton(qkv, *tables, 1), reference.rope_qkv(qkv.clone(), *tables, 1)
        assert all(relative_distance(a, b) <= 1e-3 for a, b in zip(found, expected, strict=True))


QKV, TABLE = torch.zeros(2, 3, 4, 8), torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((QKV[0], TABLE, TABLE, 1), r"qkv is \(3, 4, 8\) with 1 .* expected \(B, S, H \+ 2K, Dh\)"),
        ((QKV, TABLE, TABLE, -1), "with -1 key/value heads; expected"),
        ((QKV, TABLE, TABLE, 2), "with 2 key/value heads; expected .* at least one query head"),
        ((QKV[..., :7], TABLE, TABLE, 1), r"cos is \(2, 3, 4\) .* expected both \(2, 3, 3\) or \(1, 3, 3\), or fewer"),
        ((QKV, TABLE[..., :0], TABLE[..., :0], 1), r"cos is \(2, 3, 0\) .* or fewer values in the last"),
        ((QKV, TABLE[:, :2], TABLE, 1), r"cos is \(2, 2, 4\) .* expected both \(2, 3, 4\) or \(1, 3, 4\)"),
        ((QKV, TABLE.bfloat16(), TABLE, 1), r"cos is torch.bfloat16 .* expected fp32, since"),
        ((QKV, TABLE, TABLE.clone().requires_grad_(), 1), "sin require gradients.*ops.rope=reference"),
        ((QKV.double(), TABLE, TABLE, 1), "got torch.float64, expected fp32, bf16 or fp16.*ops.rope=reference"),
    ],
)
def test_what_cannot_be_rotated_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        rope_qkv_triton(*arguments)
