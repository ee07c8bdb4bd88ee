"""What a run gives to `task=grpo`: its prompts, tokenizer, phases, and the functions of rewards that it may call."""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from litespark.callbacks.phases import Phases
from litespark.data.stream.modules import SequenceDataModule
from litespark.data.tokenizer import Tokenizer
from litespark.device import device_of
from litespark.metrics.energy import Phase
from litespark.run.config import Parts
from litespark.run.preflight import Machine
from litespark.run.reward_models import reward_models
from litespark.run.targets import ALLOWED_VARIABLE, allowed_prefixes
from litespark.tasks.grpo.rollout import Tools
from litespark.tasks.task import NeedsTools


def running_task(parts: Parts, machine: Machine, data: SequenceDataModule, phases: Phases) -> Any:
    """The task of a run: what the settings are, or what they make of the `Tools` of the run.

    A ValueError for what they cannot run with.
    """
    if not isinstance(parts.task, NeedsTools):
        return parts.task
    tokenizer = Tokenizer.load(data.folder)  # type: ignore[attr-defined]  # prepared data has one

    @contextmanager
    def during(phase: Phase) -> Iterator[None]:
        device_of(machine.device).synchronise()  # what is still computing belongs to the phase before
        with phases.during(phase):
            yield
            device_of(machine.device).synchronise()

    sharded = machine.mesh.roles.shard > 1 or machine.mesh.roles.tensor > 1
    held = cache(data.examples)  # type: ignore[attr-defined]  # of a split, which is opened once
    ends = {tokenizer.eos_id, *getattr(parts.model, "eos_ids", ()), *parts.task.stop_ids}
    tools = Tools(
        examples=held,
        longest_prompt=max(of[0] for split in ("train", "validation") for of in held(split).lengths()),
        decode=tokenizer.decode,
        ends=frozenset(ends),
        vocab_size=tokenizer.vocab_size,
        fill_id=tokenizer.eos_id,
        seq_len=data.seq_len,
        max_seq_len=parts.model.max_seq_len,
        seed=parts.seed,
        during=during,
        any_rank=machine.mesh.any if sharded else bool,
        gather=machine.mesh.gather,
        from_first=machine.mesh.from_first,
        whole=not sharded and parts.adapter is None,
        why_not=_why_not,
        reward_models=partial(reward_models, tokenizer=tokenizer, device=machine.device),
        share_prompts=getattr(parts.data, "share_prompts", False),
    )
    return parts.task.running(tools)


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
