"""The class of each config group: what `configs/GROUP/*.yaml` fill.

To add a group: its class (`litespark.config.settings`), a line in `GROUPS`, and its folder below configs/ with a choice
in the defaults list of configs/train.yaml. To add a kind: its class, a line below the group, a choice of that name.
"""

from typing import Any

from litespark.config.loop import (
    CallbacksConfig,
    LoggerConfig,
    MetricsConfig,
    PathsConfig,
    PrecisionConfig,
    RecomputeConfig,
    RunConfig,
    TrainerConfig,
)
from litespark.config.settings import FIXED, MAY_CHANGE, NOT_COMPARED, Resume, resume_rules
from litespark.data.config import PrepareConfig, SyntheticConfig
from litespark.data.examples.config import ExamplesConfig
from litespark.models.adapters.config import LoraAdapter, NoAdapter
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.llama.config import LlamaConfig
from litespark.models.spec import ModelSpec
from litespark.ops.backend import OpsConfig
from litespark.run.folder import flatten
from litespark.tasks.grpo.settings import GRPO
from litespark.tasks.preferences.kto import KTO
from litespark.tasks.preferences.task import Preference
from litespark.tasks.pretrain import Pretrain
from litespark.tasks.reward import Reward
from litespark.tasks.sft import SFT
from litespark.tasks.task import Task
from litespark.training.budget import BudgetConfig
from litespark.training.optim import AdamWConfig, MuonConfig, OptimizerConfig
from litespark.training.parallel.config import StrategyConfig
from litespark.training.schedule import CosineSchedule, WarmupStableDecaySchedule

KIND = "kind"
"""The key that says which class of a group is meant, where there are several."""
GROUPS: dict[str, type | dict[str, type]] = {
    "model": {"llama": LlamaConfig, "huggingface": HuggingFaceConfig},
    "adapter": {"none": NoAdapter, "lora": LoraAdapter},
    "task": {"pretrain": Pretrain, "sft": SFT, "dpo": Preference, "kto": KTO, "grpo": GRPO, "reward": Reward},
    "data": {"text": PrepareConfig, "synthetic": SyntheticConfig, "examples": ExamplesConfig},
    "optim": {"adamw": AdamWConfig, "muon": MuonConfig},
    "schedule": {"cosine": CosineSchedule, "wsd": WarmupStableDecaySchedule},
    "budget": BudgetConfig,
    "ops": OpsConfig,
    "precision": PrecisionConfig,
    "recompute": RecomputeConfig,
    "strategy": StrategyConfig,
    "trainer": TrainerConfig,
    "metrics": MetricsConfig,
    "callbacks": CallbacksConfig,
    "logger": LoggerConfig,
    "paths": PathsConfig,
}
NATIVE = LlamaConfig
"""The family that takes a Hugging Face folder where it can."""
MODEL_FOLDER = "model_folder"
"""Of a resolved config, beside its groups: what `model=huggingface` was asked, whose place the model itself took."""
# groups that may be a class of the user's own, by _target_, and what that has to do
OPEN: dict[str, type] = {"model": ModelSpec, "task": Task, "optim": OptimizerConfig}
ROOT = RunConfig


def classes_of(group: str) -> dict[str, type]:
    """kind -> class; one of a single kind has no name."""
    classes = GROUPS[group]
    return classes if isinstance(classes, dict) else {"": classes}


def on_resume(key: str, kind: type | None = None) -> Resume:
    """Whether a resume may change a setting, given as a dotted key of a flat config; `kind` is the class it is of.

    Without the class a key that several of a group have is meant as in the first.
    """
    group, _, name = key.partition(".")
    if group in ("variant", "hydra"):
        return NOT_COMPARED
    if group == MODEL_FOLDER:
        return FIXED
    if group in OPEN and (group != "optim" or name in (KIND, "_target_")):
        return FIXED
    if group == "data" and name == KIND:
        return FIXED
    rules = _RULES if kind is None else _rules(kind, group if name else "")
    while key:
        if key in rules:
            return rules[key]
        key = key.rpartition(".")[0]
    return MAY_CHANGE


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a whole config by dotted key, without those of one start: names and folders."""
    return {key: value for key, value in flatten(config).items() if on_resume(key) is not NOT_COMPARED}


def _rules(kind: type, group: str) -> dict[str, Resume]:
    return {key.lstrip("."): rule for key, rule in resume_rules(kind, group)}


_RULES = _rules(ROOT, "")
for _group in GROUPS:
    for _class in reversed(classes_of(_group).values()):  # the first of a group counts
        _RULES |= _rules(_class, _group)
