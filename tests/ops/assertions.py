"""Assertions over `litespark.ops.tolerance`, for the tests of this folder."""

import torch
from torch import Tensor

from litespark.ops.tolerance import FP32_BOUND, Op, differences, relative_distance


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float = FP32_BOUND) -> None:
    """Every tensor of `expected` is in `actual` within `bound`; the failure names all that are not."""
    assert actual.keys() == expected.keys()
    distances = {name: relative_distance(actual[name], expected[name]) for name in expected}
    far = {name: distance for name, distance in distances.items() if not distance <= bound}
    assert not far, f"relative distance above {bound}: {far}"


def assert_op_matches(fast: Op, reference: Op, inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
    """`fast` in `dtype` agrees with `reference` in fp32, outputs and all gradients; see `differences`."""
    far = [difference for difference in differences(fast, reference, inputs, dtype) if not difference.passed]
    assert not far, "\n".join(f"{each.tensor}: relative distance {each.distance} above {each.bound}" for each in far)
