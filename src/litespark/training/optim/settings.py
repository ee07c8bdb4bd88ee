"""Settings of the optimizers, each checked when it is made; `optim=adamw` and `optim=muon` fill them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from litespark.ranges import Count, Decay, Epsilon, NotNegative, Range, check_ranges

AdjustLearningRate = Literal["match_rms_adamw", "original"]
# beyond, no optimizer here trains anything
LearningRate = Annotated[float, Range(above=0, at_most=100)]


@dataclass(frozen=True)
class OptimizerConfig:
    """What every optimizer here has: AdamW (Loshchilov & Hutter, arXiv 1711.05101), states in fp32, and the guard.

    Attributes:
        lr: peak learning rate.
        betas: decay of AdamW's first and second moment.
        epsilon: added to the root of the second moment.
        weight_decay: decoupled weight decay, on matrices only.
        grad_clip: largest global gradient norm; None clips nothing.
        nonfinite_limit: non-finite steps in a row after which the run stops.

    Raises:
        ValueError: a value is out of range.
    """

    lr: LearningRate = 3e-4
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: Epsilon = 1e-8
    weight_decay: NotNegative = 0.1
    grad_clip: Annotated[float, Range(at_least=1e-30)] | None = 1.0
    nonfinite_limit: Count = 5

    def __post_init__(self) -> None:
        # OmegaConf hands lists over
        if not isinstance(self.betas, Sequence) or isinstance(self.betas, str) or len(self.betas) != 2:
            raise ValueError(f"optim.betas: got {self.betas!r}, expected two numbers; set 'optim.betas=[0.9,0.95]'")
        object.__setattr__(self, "betas", tuple(self.betas))
        check_ranges(self, "optim")
        self._check_decay("lr")

    def _check_decay(self, rate: str) -> None:
        """Refuse a step that would turn the signs of the weights, which it takes times 1 − rate · weight decay."""
        value = getattr(self, rate)
        if value is not None and value * self.weight_decay > 1:
            raise ValueError(
                f"optim.weight_decay: got {self.weight_decay:g} with optim.{rate}={value:g}, expected at most "
                f"{1 / value:g}, that is 1 ÷ {rate}; set optim.weight_decay=0.1"
            )


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

    matrix_lr: LearningRate | None = None
    adjust_lr: AdjustLearningRate = "match_rms_adamw"
    momentum: Decay = 0.95
    nesterov: bool = True
    newton_schulz_steps: Annotated[int, Range(at_least=1, at_most=99, why="PyTorch's limit")] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_decay("matrix_lr")
        if self.adjust_lr not in get_args(AdjustLearningRate):
            raise ValueError(
                f"optim.adjust_lr: got {self.adjust_lr!r}, expected {' or '.join(get_args(AdjustLearningRate))}"
            )
        if self.adjust_lr == "original" and self.matrix_lr is None:
            raise ValueError(
                "optim.adjust_lr: got original and no optim.matrix_lr, expected both: AdamW's rate is some fifty times "
                "too small for it. Set optim.matrix_lr=0.02, or optim.adjust_lr=match_rms_adamw"
            )
