"""How ops are compared: relative distance per tensor, against a reference run in fp32.

In bf16 and fp16 an op may also be at most twice as far away as the reference is when it runs in that dtype itself: the
bound alone would hide an error of one per cent.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import deterministic

Op = Callable[..., Tensor | tuple[Tensor, ...]]

FP32_BOUND = 1e-5
LOW_PRECISION_BOUND = 2e-2
# a reference that happens to be exact in low precision still leaves its double some rounding of the last sum
_LEAST_LOW_PRECISION_BOUND = 1e-4
_PIECE = 2**24


@dataclass(frozen=True)
class Difference:
    """How far one tensor of a fast op is from the fp32 reference, and how far it may be; relative, see the module."""

    tensor: str
    distance: float
    bound: float

    @property
    def passed(self) -> bool:
        """Within the bound; NaN never is."""
        return self.distance <= self.bound


@dataclass(frozen=True)
class Trial:
    """Something to be tried beside its reference."""

    name: str  # of the case
    sizes: str  # in words
    compare: Callable[[], list[Difference]]  # runs it and says how far everything is from the reference


def relative_distance(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖ in fp64; infinite where shapes differ or anything is not finite."""
    if actual.shape != expected.shape:
        return float("inf")
    squares = torch.zeros(2, dtype=torch.float64, device=actual.device)
    # in pieces: whole copies in fp64 are more than a device that holds the tensors may have left
    pieces = (x.detach().flatten().split(_PIECE) for x in (actual, expected))
    for got, wanted in zip(*pieces, strict=True):
        got, wanted = got.double(), wanted.double()
        squares += torch.stack([(got - wanted).square().sum(), wanted.square().sum()])
    # fp64 holds the squares of whatever is finite in fp32
    if not bool(squares.isfinite().all()):
        return float("inf")
    distance, size = squares.sqrt().tolist()
    if size == 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / size


def outputs_and_gradients(op: Op, inputs: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Run `op(*inputs)` and its backward with a random gradient of each output.

    Floating inputs get gradients, but those whose name begins with "fixed".
    """
    leaves = {
        name: x.detach().clone().requires_grad_(x.is_floating_point() and not name.startswith("fixed"))
        for name, x in inputs.items()
    }
    result = op(*leaves.values())
    results = result if isinstance(result, tuple) else (result,)
    generator = torch.Generator(device=results[0].device).manual_seed(seed)
    # in fp32 and then rounded, so that every dtype gets the same ones
    weights = [torch.randn(y.shape, generator=generator, device=y.device).to(y.dtype) for y in results]
    torch.autograd.backward(results, weights)
    tensors = {f"output {index}": y.detach() for index, y in enumerate(results)}
    return tensors | {f"gradient of {name}": x.grad for name, x in leaves.items() if x.grad is not None}


def differences(fast: Op, reference: Op, inputs: dict[str, Tensor], dtype: torch.dtype) -> list[Difference]:
    """`fast` in `dtype` against `reference` in fp32: every output and every gradient.

    Memory that `fast` leaves unwritten reads as NaN. Inputs whose name begins with "fixed" are not cast either.
    """

    def cast(to: torch.dtype) -> dict[str, Tensor]:
        # rounded to `dtype` first, so that only arithmetic is compared and not the rounding of the inputs
        return {
            name: x if name.startswith("fixed") or not x.is_floating_point() else x.to(dtype).to(to)
            for name, x in inputs.items()
        }

    expected = outputs_and_gradients(reference, cast(torch.float32))
    with fresh_memory_is_nan():
        actual = outputs_and_gradients(fast, cast(dtype))
    slow = {} if dtype == torch.float32 else outputs_and_gradients(reference, cast(dtype))
    one_sided = [Difference(name, float("inf"), 0.0) for name in sorted(expected.keys() ^ actual.keys())]
    common = expected.keys() & actual.keys()
    return one_sided + [difference(name, actual[name], expected[name], slow.get(name)) for name in sorted(common)]


def difference(name: str, actual: Tensor, expected: Tensor, slow: Tensor | None) -> Difference:
    """`slow` is of the reference in the low precision that is compared; None: all is fp32."""
    bound = FP32_BOUND
    if slow is not None:
        own = 2 * relative_distance(slow, expected)
        bound = min(LOW_PRECISION_BOUND, max(own, _LEAST_LOW_PRECISION_BOUND))
    return Difference(name, relative_distance(actual, expected), bound)


@contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """Within it `torch.empty` and its like return NaN (integers: their largest)."""
    modes = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    filling = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            # determinism was not asked for: it comes with the filling
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
        deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
