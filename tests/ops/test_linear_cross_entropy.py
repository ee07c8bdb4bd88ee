"""The chunked losses, in plain PyTorch and in Triton, against their reference."""

import pytest
import torch

from litespark.ops.backend import load
from litespark.ops.linear_cross_entropy import chunks
from litespark.ops.linear_cross_entropy.chunked import linear_cross_entropy_chunked
from litespark.ops.linear_cross_entropy.reference import linear_cross_entropy
from litespark.ops.tolerance import outputs_and_gradients, relative_distance
from tests.ops.assertions import assert_close, assert_op_matches

pytest.importorskip("triton")
from tests.ops.linear_cross_entropy_inputs import BACKEND_NAMES, DEVICE, draw, leaves, losses_of, tiny_chunks
from tests.properties import given, settings, st

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with tiny_chunks():
        yield


@pytest.fixture(params=BACKEND_NAMES)
def op(request):
    return load("linear_cross_entropy", request.param)


# ---------------------------------------------------------------- against the reference


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    st.integers(1, 11), st.integers(1, 24), st.integers(1, 75), st.sampled_from(BACKEND_NAMES),
    st.sampled_from(["sum", "mean", "none"]),
)  # fmt: skip
def test_matches_the_reference_at_any_size(dtype, tokens, width, vocab_size, name, reduction):
    fast = load("linear_cross_entropy", name)
    inputs = draw(tokens, width, vocab_size)
    assert_op_matches(
        losses_of(fast, reduction=reduction), losses_of(linear_cross_entropy, reduction=reduction), inputs, dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "sum"},
        {"reduction": "none", "softcap": 3.0},
        {"reduction": "mean", "z_loss": 0.1, "softcap": 2.0},
    ],
    ids=lambda options: " ".join(options),
)
def test_matches_the_reference_with_every_option(op, options, dtype):
    assert_op_matches(losses_of(op, **options), losses_of(linear_cross_entropy, **options), draw(), dtype)


def test_a_label_that_is_ignored_may_be_a_token_id(op):
    options = {"ignore_index": 5, "reduction": "mean"}
    inputs = draw(ignored=(0, 3), ignore_index=5)
    assert_op_matches(losses_of(op, **options), losses_of(linear_cross_entropy, **options), inputs, torch.float32)


def test_gradients_against_finite_differences():
    hidden, weight, labels = leaves(tokens=5, width=3, vocab_size=6)
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    for options in ({"z_loss": 0.1, "softcap": 2.0}, {"reduction": "none"}):
        run = losses_of(linear_cross_entropy_chunked, **options)
        assert torch.autograd.gradcheck(lambda h, w, run=run: run(h, w, labels), (hidden, weight))


def test_logits_of_ten_thousand_overflow_nothing(op):
    inputs = draw()
    inputs["hidden"] = inputs["hidden"].sign() * 100
    inputs["weight"] = inputs["weight"].sign() * 100
    logits = inputs["hidden"] @ inputs["weight"].T
    assert logits.max() > 1e4
    assert logits.min() < -1e4
    for dtype in (torch.float32, torch.bfloat16):
        assert_op_matches(losses_of(op), losses_of(linear_cross_entropy), inputs, dtype)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20])
def test_factors_beyond_fp16_cost_no_accuracy(op, factor):
    """A gradient scaler's factor, or the share of one token in a million, in fp16 with gradients in fp32."""
    found = []
    for upstream in (1.0, factor):
        hidden, weight, labels = leaves()
        with torch.autocast(DEVICE.type, torch.float16):
            loss = op(hidden, weight, labels)
        gradients = torch.autograd.grad(loss * upstream, (hidden, weight))
        found.append({name: x / upstream for name, x in zip(("hidden", "weight"), gradients, strict=True)})
    assert_close(*found)


def test_ignored_tokens_have_no_loss_and_no_gradient(op):
    inputs = draw(ignored=(1, 5))
    found = outputs_and_gradients(losses_of(op, reduction="none"), inputs)
    assert found["output 0"][[1, 5]].eq(0).all()
    assert found["gradient of hidden"][[1, 5]].eq(0).all()
    assert found["gradient of hidden"][[0, 2]].ne(0).all()


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_nothing_to_predict_is_a_loss_of_zero(op, reduction):
    for tokens in (3, 0):
        found = outputs_and_gradients(losses_of(op, reduction=reduction), draw(tokens, ignored=range(tokens)))
        assert all(x.eq(0).all() for x in found.values())
        assert found["gradient of weight"].shape == (37, 12)


@pytest.mark.parametrize("label", [-1, 37, 10**12])
def test_a_label_that_is_no_token_id_makes_the_loss_infinite(op, label):
    hidden, weight, labels = leaves()
    labels[0] = label
    assert op(hidden, weight, labels).isposinf()
    nats, correct = op(hidden, weight, labels, reduction="none")
    assert nats.isposinf().tolist() == [True] + [False] * 5
    assert not correct[0]


def test_nan_is_not_hidden(op):
    hidden, weight, labels = leaves()
    hidden.data[0, 0] = float("nan")
    assert op(hidden, weight, labels).isnan()
    assert op(hidden, weight, labels, reduction="none").nats.isnan().tolist() == [True] + [False] * 5


def test_the_first_of_equal_logits_is_the_likeliest(op):
    hidden, weight, labels = leaves(tokens=3, vocab_size=50, ignored=())
    weight.data[:] = 0
    # in one lane of two blocks, in two lanes of one block, and everywhere
    weight.data[[7, 39]] = weight.data[[8, 11]] = 1.0
    hidden.data[:] = 1.0
    hidden.data[2] = 0.0
    for label in (0, 7, 8, 39):
        labels[:] = label
        correct = op(hidden, weight, labels, reduction="none").correct
        assert correct.tolist() == [label == 7, label == 7, label == 0]


# ---------------------------------------------------------------- dtypes, autocast, compiler


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_autocast_multiplies_in_bf16_and_returns_gradients_in_the_dtypes_of_the_inputs(op, reduction):
    found = []
    for run in (op, linear_cross_entropy):
        hidden, weight, labels = leaves()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = losses_of(run, reduction=reduction)(hidden, weight, labels)
        assert loss.dtype == torch.float32
        loss.sum().backward()
        assert (hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)
        found.append({"loss": loss, "hidden": hidden.grad, "weight": weight.grad})
    assert_close(*found, bound=1e-2)
    exact = leaves()
    assert relative_distance(found[0]["loss"], losses_of(linear_cross_entropy, reduction=reduction)(*exact)) > 1e-5


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_autocast_does_not_reach_the_sums_in_fp32(op, reduction, monkeypatch):
    seen = []

    def watched(function):
        def run(*args):
            seen.append(torch.is_autocast_enabled(DEVICE.type))
            return function(*args)

        return run

    for name in ("losses", "losses_and_gradients", "gradients"):
        monkeypatch.setattr(chunks, name, watched(getattr(chunks, name)))
    hidden, weight, labels = leaves()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        losses_of(op, reduction=reduction)(hidden, weight, labels).sum().backward()
    assert seen
    assert not any(seen)


def test_the_gradient_of_the_weight_is_summed_in_fp32(op):
    """Under autocast, so that nothing is rounded afterwards: far closer than one rounding to bf16 (2e-3)."""
    hidden, weight, labels = leaves(tokens=16, ignored=())
    hidden, weight = (x.detach().bfloat16().float().requires_grad_() for x in (hidden, weight))
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    p = logits.softmax(-1) - torch.nn.functional.one_hot(labels, 37)
    expected = p.bfloat16().float().T @ hidden
    with torch.autocast(DEVICE.type, torch.bfloat16):
        loss = op(hidden, weight, labels)
    (found,) = torch.autograd.grad(loss, weight)
    assert relative_distance(found, expected) < 3e-4


# ---------------------------------------------------------------- refusals

HIDDEN, WEIGHT, LABELS = torch.zeros(2, 4), torch.zeros(6, 4), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("inputs", "options", "match"),
    [
        ((HIDDEN, WEIGHT, LABELS[:1]), {}, r"labels \(1,\); expected \(..., D\), \(V, D\) and \(...\)"),
        ((HIDDEN, WEIGHT, LABELS), {"reduction": "max"}, "reduction is 'max'; expected 'sum', 'mean' or 'none'"),
        ((HIDDEN, WEIGHT, LABELS), {"z_loss": 0.1, "reduction": "none"}, "z_loss is 0.1 with reduction 'none'"),
        ((HIDDEN, WEIGHT, LABELS), {"softcap": -1.0}, "softcap is -1.0; expected a positive cap"),
        ((HIDDEN, WEIGHT.half(), LABELS), {}, "weight torch.float16; expected the same dtype, or autocast"),
        ((HIDDEN, WEIGHT[:0], LABELS), {}, r"weight \(0, 4\)"),
        ((HIDDEN, WEIGHT, LABELS.float()), {}, "labels are torch.float32; expected int64"),
    ],
)
def test_what_no_backend_can_compute_is_refused(op, inputs, options, match):
    with pytest.raises(ValueError, match=match):
        op(*inputs, **options)


def test_triton_refuses_dtypes_that_it_would_round():
    for name in ("triton", "triton_recompute"):
        with pytest.raises(ValueError, match=r"got torch.float64, expected fp32, bf16 or fp16.*=chunked"):
            load("linear_cross_entropy", name)(HIDDEN.double(), WEIGHT.double(), LABELS)
