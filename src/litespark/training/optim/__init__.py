"""The optimizers, AdamW and Muon: their settings, and how they are built."""

from litespark.training.optim.build import build_optimizer, parameter_groups
from litespark.training.optim.finite import not_finite
from litespark.training.optim.settings import AdamWConfig, MuonConfig, OptimizerConfig

__all__ = [
    "AdamWConfig",
    "MuonConfig",
    "OptimizerConfig",
    "build_optimizer",
    "not_finite",
    "parameter_groups",
]
