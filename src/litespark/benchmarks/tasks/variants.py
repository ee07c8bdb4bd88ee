"""What is measured beside what: a task, who trains it, and the overrides that make it from the benchmark's config."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from litespark.metrics.records.tasks import TaskName, Trainer
from litespark.run.config import ConfigError

NEW_TOKENS = 64
OF_TASK: dict[TaskName, tuple[str, ...]] = {
    "sft": ("task=sft", "data=conversations"),
    "dpo": ("task=dpo", "data=pairs"),
    "grpo": (
        "task=grpo",
        "data=prompts",
        "task.num_generations=8",
        f"task.max_new_tokens={NEW_TOKENS}",
        "task.rewards={length: 1.0}",
    ),
}
"""The overrides of each task; every completion of GRPO has as many tokens as it may have."""


@dataclass(frozen=True)
class Variant:
    """`settings` are laid over those of the task; `padded`: TRL's examples one a row, filled up to the longest."""

    name: str
    task: TaskName
    trainer: Trainer
    about: str
    settings: tuple[str, ...] = ()
    padded: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages beside those that Litespark requires, as pip knows them."""
        return ("trl==1.16",) if self.trainer == "trl" else ("peft",) if self.settings else ()


_TRL = "TRL's {}Trainer as its users train on a CPU: SDPA, fused AdamW, no log, no checkpoint"
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("sft", "sft", "litespark", "packed, documents masked"),
        Variant("sft_lora", "sft", "litespark", "the same with a LoRA of rank 16 on all layers", ("adapter=lora",)),
        Variant("sft_trl", "sft", "trl", _TRL.format("SFT") + "; bfd packing, padding-free"),
        Variant("sft_trl_padded", "sft", "trl", _TRL.format("SFT") + "; an example a row, padded", padded=True),
        Variant("dpo", "dpo", "litespark", "packed, padding-free; reference computed before"),
        Variant("dpo_trl", "dpo", "trl", _TRL.format("DPO") + "; padded, its only way; reference computed before"),
        Variant("grpo", "grpo", "litespark", "completions by our generator"),
        Variant("grpo_trl", "grpo", "trl", _TRL.format("GRPO") + "; completions by transformers' generate"),
    )
}


# slower than what is packed: measured where it is asked for
_ON_REQUEST = {"sft_trl_padded"}


def chosen(names: Sequence[str]) -> list[Variant]:
    """The variants of these names, or the usual ones; a ConfigError for a name that is none."""
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ConfigError(f"--variant: got {', '.join(unknown)}, expected some of {', '.join(VARIANTS)}")
    usual = [name for name in VARIANTS if name not in _ON_REQUEST]
    return [VARIANTS[name] for name in dict.fromkeys(names or usual)]


def why_not(variant: Variant) -> str | None:
    """Why a variant cannot run here, with what would mend it."""
    missing = [name for name in variant.needs if importlib.util.find_spec(name.partition("=")[0]) is None]
    return f"{missing[0].partition('=')[0]} is not installed; pip install {missing[0]}" if missing else None
