"""`litespark plan`: what ranks hold and send under each strategy; activations are counted, all else is computed."""

import itertools
from collections.abc import Callable, Sequence

from litespark.benchmarks.traffic.session import count_ours
from litespark.benchmarks.traffic.steps import precision_as_on_gpu
from litespark.models.llama.config import LlamaConfig
from litespark.planning.flops import causal_mean_keys, hardware_flops_per_token
from litespark.planning.ranks import Layout, RankPlan, plan_rank
from litespark.run.checkout import repository
from litespark.run.composing import compose_parts
from litespark.run.config import ConfigError, Parts
from litespark.run.tensor_parallel import why_not_tensor
from litespark.tasks.task import Observes


def plan_ranks(
    overrides: Sequence[str], layout: Layout, say: Callable[[str], None]
) -> tuple[list[RankPlan], str, float]:
    """A plan for the chosen strategy, or for each that is for several ranks; a line about it, and FLOPs of a rank."""
    choices = _of_strategies(overrides, layout, say)
    parts = choices[0]
    if parts.adapter is not None:
        raise ConfigError("adapter: got one, expected adapter=none: the plan is of a model that is trained whole")
    splits = [_split(one, layout) for one in choices]  # refused before seconds are spent
    narrow = precision_as_on_gpu(parts) == "bf16"
    kept = _kept(parts) / parts.data.micro_batch_size if isinstance(parts.model, LlamaConfig) else None
    plans = [_planned(one, layout, split, narrow=narrow, kept=kept) for one, split in zip(choices, splits, strict=True)]
    tokens, keys = parts.trainer.global_batch_size * parts.data.seq_len, causal_mean_keys(parts.data.seq_len)
    flops = hardware_flops_per_token(parts.model, keys, parts.recompute)
    about = (
        f"{parts.model.name} ({parts.model.parameter_count() / 1e9:.2f} B parameters), {layout.nodes} x "
        f"{layout.gpus_per_node} GPUs, {tokens:,} tokens a step in sequences of {parts.data.seq_len}, "
        f"{precision_as_on_gpu(parts)}, recompute {parts.recompute}"
    )
    return plans, about, flops * tokens / layout.ranks


def _of_strategies(overrides: Sequence[str], layout: Layout, say: Callable[[str], None]) -> list[Parts]:
    """The config with the strategy that it chooses, or with each that such ranks can have; why not others is said."""
    if any(word.startswith("strategy=") for word in overrides):
        parts = compose_parts(overrides)
        if refused := _why_not(parts, layout):
            raise ConfigError("\n".join(refused))
        return [parts]
    names = [file.stem for file in sorted((repository() / "configs" / "strategy").glob("*.yaml"))]
    of_ranks = [name for name in names if (name == "single") == (layout.ranks == 1)]
    composed = [compose_parts([*overrides, f"strategy={name}"]) for name in of_ranks]
    reasons = [_why_not(parts, layout) for parts in composed]
    for line in itertools.chain(*reasons):
        say(f"left out: {line}")
    return [parts for parts, reason in zip(composed, reasons, strict=True) if not reason]


def _why_not(parts: Parts, layout: Layout) -> list[str]:
    return why_not_tensor(parts, parts.strategy.roles(layout.ranks, layout.gpus_per_node))


def _split(parts: Parts, layout: Layout) -> tuple[int, int]:
    """Micro-batches of a rank in a step, and sequences of each."""
    data = parts.strategy.roles(layout.ranks, layout.gpus_per_node).data
    size = parts.trainer.fitting_micro_batch(parts.data.micro_batch_size, data)
    return parts.trainer.accumulate(size, data), size


def _planned(parts: Parts, layout: Layout, split: tuple[int, int], *, narrow: bool, kept: float | None) -> RankPlan:
    """`kept` bytes of a sequence."""
    micro_batches, size = split
    return plan_rank(
        parts.model,
        parts.strategy,
        layout,
        parts.optim,
        micro_batches=micro_batches,
        micro_batch_size=size,
        seq_len=parts.data.seq_len,
        narrow=narrow,
        recompute=parts.recompute,
        kept=None if kept is None else round(kept * size),
        observed=len(parts.task.observed) if isinstance(parts.task, Observes) else 0,
    )


def _kept(parts: Parts) -> int:
    """Bytes that a micro-batch of one device keeps, which adds to the gradients of an earlier one."""
    (later,) = (saved for saved in count_ours(parts).saved if saved.phase == "later")
    return later.layer * parts.model.num_layers + later.rest
