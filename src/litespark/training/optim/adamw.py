"""AdamW with one kernel for all parameters: PyTorch's, or ours in Triton, which leaves the gradients as they are.

PyTorch's divides them by `grad_scale` in place, which writes 4 bytes a parameter more.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import AdamW

from litespark.device import device_of
from litespark.ops import triton_support
from litespark.training.optim.finite import local_part

if TYPE_CHECKING:
    from litespark.training.optim.settings import OptimizerConfig

AdamWKernel = Literal["auto", "triton", "torch"]


def fused_adamw(
    kernel: AdamWKernel, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float
) -> AdamW:
    """AdamW over `groups`; `auto` takes Triton's kernel where it can run, unless in Triton's interpreter.

    The rate becomes a tensor where a step can read one: no number of a step is then baked into a CUDA graph of it.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    rate = _rate_tensor(lr, parameters[0]) if parameters else lr
    if kernel != "torch":
        reason = _why_not_triton(parameters, kernel)
        if reason is None:
            return TritonAdamW(groups, rate, betas, eps)
        if kernel == "triton":
            raise ValueError(f"optim.adamw_kernel: got triton, which cannot run here: {reason}; expected auto or torch")
    if isinstance(rate, Tensor) and device_of(rate.device).is_accelerator:
        rate = rate.float()  # PyTorch's kernel reads no other there
    return AdamW(groups, rate, betas, eps, fused=True)


def _rate_tensor(rate: float, parameter: Tensor) -> float | Tensor:
    there = device_of(parameter.device)
    if parameter.is_meta or (there.is_accelerator and not there.is_nvidia_or_amd):
        return rate
    return torch.tensor(rate, dtype=torch.float64, device=parameter.device)


def why_not_triton(device: torch.device, kernel: AdamWKernel) -> str | None:
    """Why the step is not taken by Triton's kernel there; None: it is."""
    if kernel == "torch":
        return "PyTorch's kernel was asked for"
    if (reason := triton_support.why_not(device, torch.float32)) is not None:
        return reason
    return None if kernel == "triton" or device_of(device).is_accelerator else "Triton's interpreter is for tests"


def takes_triton(config: "OptimizerConfig") -> bool:
    """Whether AdamW of these settings is Triton's where that can run."""
    return getattr(config, "fused", True) and config.adamw_kernel != "torch"


def _why_not_triton(parameters: list[Tensor], kernel: AdamWKernel) -> str | None:
    for parameter in parameters:
        if parameter.dtype != torch.float32:
            return f"it takes weights in fp32, not {parameter.dtype}"
        if (reason := why_not_triton(parameter.device, kernel)) is not None:
            return reason
    return None


class TritonAdamW(AdamW):
    """`torch.optim.AdamW(fused=True)` over Triton's kernel, with the same groups and states, for weights in fp32.

    The kernel reads `grad_scale`, `found_inf`, counters, and a rate that is a tensor on the device, so a CUDA graph can
    hold a step.

    Attributes:
        copies: parameter -> a tensor in bf16 of the shape of this rank's part, which each step fills with the weights.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float | Tensor, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(groups, lr, betas, eps, fused=True)
        self._begin()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "copies" not in self.__dict__:  # it was pickled or copied, which keeps groups and states
            self._begin()

    def _begin(self) -> None:
        from litespark.ops.adamw.kernels import Tables  # only where Triton is

        self.copies: dict[Tensor, Tensor] = {}
        self._tables = [Tables() for _ in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, which makes the gradients, is called first and its result returned."""
        from litespark.ops.adamw.function import adamw_step
        from litespark.ops.adamw.kernels import Update

        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        scale, skipped = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group, tables in zip(self.param_groups, self._tables, strict=True):
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            averages: list[Tensor] = []
            squares: list[Tensor] = []
            steps: list[Tensor] = []
            self._init_group(group, parameters, gradients, averages, squares, [], steps)
            if not parameters:
                continue
            updates = []
            for parameter, *others in zip(parameters, gradients, averages, squares, strict=True):
                weight, gradient, average, square = map(local_part, (parameter, *others))
                if gradient.stride() != weight.stride():
                    gradient = torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
                updates.append(Update(weight, gradient, average, square, self.copies.get(parameter)))
            settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
            adamw_step(updates, steps, tables, **settings, grad_scale=scale, found_inf=skipped)
        return result
