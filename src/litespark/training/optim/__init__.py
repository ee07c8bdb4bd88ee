"""The optimizers, AdamW and Muon: their settings, how they are built, and the end of a step before they are taken."""

from litespark.training.optim.build import build_optimizer, parameter_groups, set_learning_rate
from litespark.training.optim.finite import not_finite
from litespark.training.optim.gradients import StepGradients, finish_gradients
from litespark.training.optim.settings import AdamWConfig, MuonConfig, OptimizerConfig

__all__ = [
    "AdamWConfig",
    "MuonConfig",
    "OptimizerConfig",
    "StepGradients",
    "build_optimizer",
    "finish_gradients",
    "not_finite",
    "parameter_groups",
    "set_learning_rate",
]
