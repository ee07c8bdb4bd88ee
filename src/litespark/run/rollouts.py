"""What a run gives to `task=grpo`: its prompts, tokenizer, phases, and the functions of rewards that it may call."""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from litespark.callbacks.phases import Phases
from litespark.data.stream.modules import SequenceDataModule
from litespark.data.tokenizer import Tokenizer
from litespark.device import device_of
from litespark.metrics.energy import Phase
from litespark.run.config import ConfigError, Parts
from litespark.run.preflight import Machine
from litespark.run.reward_models import reward_models
from litespark.run.targets import ALLOWED_VARIABLE, allowed_prefixes
from litespark.tasks.grpo.policy import Policy
from litespark.tasks.grpo.rewards import REWARDS
from litespark.tasks.grpo.rollout import Tools
from litespark.tasks.grpo.settings import GRPO


def running_task(parts: Parts, machine: Machine, data: SequenceDataModule, phases: Phases) -> Any:
    """The task of a run: the settings themselves, or what samples completions as they say.

    A ConfigError for a reward that may not be called, or prompts that are too long.
    """
    settings = parts.task
    if not isinstance(settings, GRPO):
        return settings
    examples = data.examples  # type: ignore[attr-defined]  # of prompts, which the preflight has asked for
    for name in settings.rewards:
        if name in REWARDS or name in settings.reward_models:
            continue
        if (reason := _why_not(name)) is not None:
            raise ConfigError(
                f"task.rewards: got {name}, expected {', '.join(REWARDS)} or a function of your own; {reason}"
            )
    longest = max(of[0] for split in ("train", "validation") for of in examples(split).lengths())
    room = min(data.seq_len + 1, parts.model.max_seq_len) - settings.max_new_tokens
    if longest > room:
        raise ConfigError(
            f"task.max_new_tokens: got {settings.max_new_tokens} with prompts of up to {longest} tokens, expected at "
            f"most {max(0, room - longest + settings.max_new_tokens)}, so that both fit into data.seq_len="
            f"{data.seq_len} and model.max_seq_len={parts.model.max_seq_len}; lower it or data.max_prompt_length"
        )
    tokenizer = Tokenizer.load(data.folder)  # type: ignore[attr-defined]  # prepared data has one

    @contextmanager
    def during(phase: Phase) -> Iterator[None]:
        device_of(machine.device).synchronise()  # what is still computing belongs to the phase before
        with phases.during(phase):
            yield
            device_of(machine.device).synchronise()

    sharded = machine.mesh.roles.shard > 1 or machine.mesh.roles.tensor > 1
    tools = Tools(
        examples=cache(examples),  # of a split, which is opened once
        decode=tokenizer.decode,
        ends=frozenset({tokenizer.eos_id, *getattr(parts.model, "eos_ids", ()), *settings.stop_ids}),
        vocab_size=tokenizer.vocab_size,
        fill_id=tokenizer.eos_id,
        seq_len=data.seq_len,
        seed=parts.seed,
        during=during,
        any_rank=machine.mesh.any if sharded else bool,
    )
    whole = longest + settings.max_new_tokens + 1  # with an EOS behind it
    own = reward_models(settings.reward_models, whole, machine.device)
    policy = Policy(settings, tools, own)
    policy.scorer.check()
    return policy


def _why_not(name: str) -> str | None:
    """Why a function is not called; None: it is defined below the allowed prefixes. Its module is imported."""
    allowed = allowed_prefixes()
    module, _, attribute = name.rpartition(".")
    if not f"{module}.".startswith(allowed) or "__main__" in module:
        return (
            f"set {ALLOWED_VARIABLE}=yourpackage. in the environment, or allowed_targets under [tool.litespark] in "
            "pyproject.toml, and name it with its module, as yourpackage.rewards.function"
        )
    try:
        made = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, SyntaxError) as error:
        return f"{module} cannot be imported ({type(error).__name__}: {error}); make it importable: PYTHONPATH=FOLDER"
    if not inspect.isfunction(made) or not f"{made.__module__}.".startswith(allowed):
        return f"{module} defines no function {attribute}; name one where it is defined"
    return None
