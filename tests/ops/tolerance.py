"""The one way in which ops are compared: relative distance per tensor, against a reference run in fp32.

In fp32 a fast op may be 1e-5 away. In bf16 and fp16 it may be 2e-2 away, and at most twice as far as the reference is
when it runs in that dtype itself: 2e-2 alone would hide an error of one per cent.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# a reference that happens to be exact in low precision still leaves its double some rounding of the last sum
_LEAST_LOW_PRECISION_BOUND = 1e-4


def relative_distance(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖ in fp64; infinite where shapes differ or anything is not finite."""
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = actual.detach().double(), expected.detach().double()
    if not (bool(actual.isfinite().all()) and bool(expected.isfinite().all())):
        return float("inf")
    distance, size = (actual - expected).norm().item(), expected.norm().item()
    if size == 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / size


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float = 1e-5) -> None:
    """Every tensor of `expected` is in `actual` within `bound`; the failure names all that are not."""
    assert actual.keys() == expected.keys()
    distances = {name: relative_distance(actual[name], expected[name]) for name in expected}
    far = {name: distance for name, distance in distances.items() if not distance <= bound}
    assert not far, f"relative distance above {bound}: {far}"


def outputs_and_gradients(
    op: Callable[..., Tensor | tuple[Tensor, ...]], inputs: dict[str, Tensor], seed: int = 0
) -> dict[str, Tensor]:
    """Run `op(*inputs)` and its backward with a random gradient of each output; floating inputs get gradients."""
    leaves = {
        name: x.detach().clone().requires_grad_(x.is_floating_point() and not name.startswith("fixed"))
        for name, x in inputs.items()
    }
    result = op(*leaves.values())
    results = result if isinstance(result, tuple) else (result,)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(y.shape, generator=generator).to(y.device, y.dtype) for y in results]
    torch.autograd.backward(results, weights)
    found = {f"output {index}": y for index, y in enumerate(results)}
    return found | {f"gradient of {name}": x.grad for name, x in leaves.items() if x.grad is not None}


def assert_op_matches(
    fast: Callable[..., Tensor | tuple[Tensor, ...]],
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """`fast` in `dtype` agrees with `reference` in fp32, outputs and all gradients.

    Args:
        fast, reference: take the values of `inputs` in order.
        inputs: by name; floating ones are cast to `dtype`, unless the name begins with "fixed": those are neither cast
            nor differentiated.
        dtype: fp32, bf16 or fp16.
    """

    def cast(to: torch.dtype) -> dict[str, Tensor]:
        # rounded to `dtype` first, so that only arithmetic is compared and not the rounding of the inputs
        return {
            name: x if name.startswith("fixed") or not x.is_floating_point() else x.to(dtype).to(to)
            for name, x in inputs.items()
        }

    expected = outputs_and_gradients(reference, cast(torch.float32))
    actual = outputs_and_gradients(fast, cast(dtype))
    if dtype == torch.float32:
        assert_close(actual, expected)
        return
    assert_close(actual, expected, 2e-2)
    slow = outputs_and_gradients(reference, cast(dtype))
    for name, value in expected.items():
        bound = max(2 * relative_distance(slow[name], value), _LEAST_LOW_PRECISION_BOUND)
        assert_close({name: actual[name]}, {name: value}, bound)
