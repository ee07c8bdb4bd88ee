"""The comparison of ops must itself be able to fail: each way of being wrong is planted."""

import pytest
import torch

from litespark.ops.tolerance import fresh_memory_is_nan, relative_distance
from tests.ops.assertions import assert_op_matches


def _inputs():
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(64, 32, generator=generator), "weight": torch.randn(32, generator=generator)}


def _product(x, weight):
    return x * weight


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * weight, (gradient * x).sum(0) * 1.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_per_cent_and_a_missing_gradient_are_caught_in_every_dtype(dtype):
    assert_op_matches(_product, _product, _inputs(), dtype)
    for wrong, named in (
        (lambda x, weight: x * weight * 1.01, "output 0"),
        (_WrongGradient.apply, "gradient of weight"),
        (lambda x, weight: x * weight.detach(), "gradient of weight"),
    ):
        with pytest.raises(AssertionError, match=named):
            assert_op_matches(wrong, _product, _inputs(), dtype)


@pytest.mark.parametrize("piece", [7, 2**24])
def test_the_distance_does_not_depend_on_the_pieces_it_is_taken_in_and_nan_never_passes(monkeypatch, piece):
    monkeypatch.setattr("litespark.ops.tolerance._PIECE", piece)
    x = _inputs()["x"]
    assert relative_distance(x.mT * 1.01, x.mT) == pytest.approx(0.01, rel=1e-4)
    assert relative_distance(x, x) == 0
    for hole in (float("nan"), float("inf")):
        broken = x.clone()
        broken[-1, -1] = hole
        assert relative_distance(broken, x) == relative_distance(x, broken) == float("inf")
        assert relative_distance(broken, broken) == float("inf")
    assert relative_distance(x[0], x[:1]) == float("inf")
    assert relative_distance(x, torch.zeros_like(x)) == float("inf")
    assert relative_distance(torch.zeros_like(x), torch.zeros_like(x)) == 0


def test_comparing_says_nothing_of_determinism_and_leaves_it_as_it_was(recwarn):
    assert not torch.are_deterministic_algorithms_enabled()

    def put(x, weight):
        x.detach().clone().put_(torch.tensor([0]), torch.tensor([0.0]))  # of which PyTorch warns
        return x * weight

    assert_op_matches(put, _product, _inputs(), torch.float32)
    assert not [each for each in recwarn if "determinis" in str(each.message)]
    with pytest.raises(RuntimeError), fresh_memory_is_nan():
        raise RuntimeError
    assert not torch.are_deterministic_algorithms_enabled()
