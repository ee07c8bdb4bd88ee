"""The optimizers: their settings, which `optim=adamw` and `optim=muon` fill, and what each of them builds."""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from litespark.config.settings import Switch, settings
from litespark.device import device_of
from litespark.ranges import Count, Decay, Epsilon, NotNegative, Range
from litespark.training.optim.adamw import AdamWKernel, fused_adamw
from litespark.training.optim.build import parameter_groups
from litespark.training.schedule import LEARNING_RATE_FACTOR

# beyond, no optimizer here trains anything
LearningRate = Annotated[float, Range(above=0, at_most=100)]


@settings("optim")
class OptimizerConfig:
    """What every optimizer here has: AdamW (Loshchilov & Hutter, arXiv 1711.05101), states in fp32, and the guard."""

    lr: LearningRate = 3e-4
    """Peak learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of AdamW's first and second moment."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NotNegative = 0.1
    """Decoupled weight decay, on matrices only."""
    grad_clip: Annotated[float, Range(at_least=1e-30)] | None = 1.0
    """Largest global gradient norm; null clips nothing."""
    nonfinite_limit: Count = 5
    """Non-finite steps in a row (each is skipped) after which the run stops."""
    adamw_kernel: AdamWKernel = "auto"
    """Of fused AdamW: `triton`, ours, which does not write gradients back; `torch`; `auto` takes ours where there is a
    GPU for it and it passes its verification."""

    def __post_init__(self) -> None:
        self._check_decay("lr")

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer over the parameters of `model`, as each kind makes its own."""
        raise ValueError(
            f"optim: got a {type(self).__name__}, expected a class with a method `build(model)` that gives a PyTorch "
            "optimizer; add it, see CONTRIBUTING.md, or choose optim=adamw"
        )

    def _check_decay(self, rate: str) -> None:
        """Refuse a step that would turn the signs of the weights, which it takes times 1 − rate · weight decay."""
        value = getattr(self, rate)
        if value is not None and value * self.weight_decay > 1:
            raise ValueError(
                f"optim.weight_decay: got {self.weight_decay:g} with optim.{rate}={value:g}, expected at most "
                f"{1 / value:g}, that is 1 ÷ {rate}; set optim.weight_decay=0.1"
            )


@settings("optim")
class AdamWConfig(OptimizerConfig):
    """AdamW for every parameter."""

    fused: Switch = True
    """One kernel for all parameters (CPU and CUDA). Without it the host reads one number in each step."""

    def build(self, model: nn.Module) -> Optimizer:
        """See `OptimizerConfig`."""
        groups = parameter_groups(model, self.weight_decay)
        if self.fused:
            return fused_adamw(self.adamw_kernel, groups, self.lr, self.betas, self.eps)
        return AdamW(groups, self.lr, self.betas, self.eps, fused=False, foreach=True)


@settings("optim")
class MuonConfig(OptimizerConfig):
    """Muon for the matrices of the blocks, fused AdamW for embedding, head and norms.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; weight decay and the adjustment of the rate are
    those of Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982.
    """

    matrix_lr: LearningRate | None = None
    """Peak learning rate of Muon; null takes `lr`, which is then that of all parameters."""
    adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """Factor on Muon's rate for an A x B matrix. `match_rms_adamw`, 0.2·sqrt(max(A, B)), gives an update the root mean
    square that AdamW's usually has, so that one rate serves both. `original`, sqrt(max(1, A/B)), needs a `matrix_lr` of
    its own, of about 0.02."""
    momentum: Decay = 0.95
    """Decay of the average of the gradients."""
    nesterov: Switch = True
    """Orthogonalise the gradient moved towards that average, and not the average itself."""
    newton_schulz_steps: Annotated[int, Range(at_least=1, at_most=99, why="PyTorch's limit")] = 5
    """Iterations towards the nearest orthogonal matrix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_decay("matrix_lr")
        if self.adjust_lr == "original" and self.matrix_lr is None:
            raise ValueError(
                "optim.adjust_lr: got original and no optim.matrix_lr, expected both: AdamW's rate is some fifty times "
                "too small for it. Set optim.matrix_lr=0.02, or optim.adjust_lr=match_rms_adamw"
            )

    def build(self, model: nn.Module) -> Optimizer:
        """See `OptimizerConfig`; a ValueError where no layer of `model` has a matrix to train."""
        # only where it is chosen, since it looks into PyTorch's Muon
        from litespark.training.optim.muon import MuonWithAdamW, block_matrices

        matrices = block_matrices(model)
        rows: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter, parts in matrices.items():
            if parameter.requires_grad:
                rows.setdefault(parts, []).append(parameter)
        if not rows:
            raise ValueError(
                f"optim=muon: got a {type(model).__name__} without a trained matrix in its layers, expected some: Muon "
                "is for those. Choose optim=adamw"
            )
        factor, there = 1.0 if self.matrix_lr is None else self.matrix_lr / self.lr, next(iter(matrices)).device
        # a step reads it on the device: no number of a step is baked into a CUDA graph of it
        rate = torch.tensor(self.lr * factor, dtype=device_of(there).sum_dtype, device=there)
        names = ("weight_decay", "momentum", "nesterov", "newton_schulz_steps", "adjust_lr")
        common = {name: getattr(self, name) for name in names}
        common |= {"lr": rate, LEARNING_RATE_FACTOR: factor}
        groups = [{"params": parameters, "rows": parts, **common} for parts, parameters in rows.items()]
        others = parameter_groups(model, self.weight_decay, without=matrices.keys())
        return MuonWithAdamW(groups, fused_adamw(self.adamw_kernel, others, self.lr, self.betas, self.eps))
