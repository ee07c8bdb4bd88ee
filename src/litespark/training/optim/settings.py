"""Settings of the optimizers, each checked when it is made; `optim=adamw` and `optim=muon` fill them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

AdjustLearningRate = Literal["match_rms_adamw", "original"]


@dataclass(frozen=True)
class OptimizerConfig:
    """What every optimizer here has: AdamW (Loshchilov & Hutter, arXiv 1711.05101), states in fp32, and the guard.

    Attributes:
        lr: peak learning rate.
        betas: decay of AdamW's first and second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled weight decay, on matrices only.
        clip_norm: largest global gradient norm; None clips nothing.
        nonfinite_limit: non-finite steps in a row after which the run stops.

    Raises:
        ValueError: a value is out of range.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    nonfinite_limit: int = 5

    def __post_init__(self) -> None:
        # OmegaConf hands lists over
        object.__setattr__(self, "betas", tuple(self.betas))
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optim.lr: got {self.lr}, expected a positive, finite learning rate")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: got {list(self.betas)}, expected two numbers in [0, 1)")
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"optim.epsilon: got {self.epsilon}, expected at least 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"optim.weight_decay: got {self.weight_decay}, expected at least 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optim.clip_norm: got {self.clip_norm}, expected a positive norm, or null for none")
        if self.nonfinite_limit < 1:
            raise ValueError(f"optim.nonfinite_limit: got {self.nonfinite_limit}, expected at least 1")


@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """AdamW for every parameter.

    Attributes:
        fused: one kernel for all parameters (CPU and CUDA). Without it the host reads one number in each step.
    """

    fused: bool = True


@dataclass(frozen=True)
class MuonConfig(OptimizerConfig):
    """Muon for the matrices of the blocks, fused AdamW for embedding, head and norms.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, which gives momentum, Nesterov's look ahead and the
    five iterations; Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982, which gives weight decay and
    the adjustment by which Muon takes AdamW's learning rate.

    Attributes:
        matrix_lr: peak learning rate of Muon; None takes `lr`, which is then that of all parameters.
        adjust_lr: factor on Muon's rate for an A x B matrix. `match_rms_adamw`, 0.2·sqrt(max(A, B)), gives an update
            the root mean square that AdamW's usually has, so that one rate serves both. `original`,
            sqrt(max(1, A/B)), wants a `matrix_lr` of its own, of about 0.02.
        momentum: decay of the average of the gradients.
        nesterov: orthogonalise the gradient moved towards that average, and not the average itself.
        newton_schulz_steps: iterations towards the nearest orthogonal matrix.

    Raises:
        ValueError: a value is out of range.
    """

    matrix_lr: float | None = None
    adjust_lr: AdjustLearningRate = "match_rms_adamw"
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.matrix_lr is not None and not 0 < self.matrix_lr < math.inf:
            raise ValueError(
                f"optim.matrix_lr: got {self.matrix_lr}, expected a positive, finite rate, or null for optim.lr"
            )
        if self.adjust_lr not in get_args(AdjustLearningRate):
            raise ValueError(
                f"optim.adjust_lr: got {self.adjust_lr!r}, expected {' or '.join(get_args(AdjustLearningRate))}"
            )
        if self.adjust_lr == "original" and self.matrix_lr is None:
            raise ValueError(
                "optim.adjust_lr: got original and no optim.matrix_lr, expected both: AdamW's rate is some fifty times "
                "too small for it. Set optim.matrix_lr=0.02, or optim.adjust_lr=match_rms_adamw"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"optim.momentum: got {self.momentum}, expected a number in [0, 1)")
        if not 1 <= self.newton_schulz_steps < 100:  # the limit is PyTorch's
            raise ValueError(f"optim.newton_schulz_steps: got {self.newton_schulz_steps}, expected 1 to 99")
