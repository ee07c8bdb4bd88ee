"""What a layer of each dense family moves and launches: transformers' own, compiled, with Liger's kernels, and ours.

Of a family two depths are counted, of which the difference is a layer. A micro-batch is its forward and backward pass;
an optimizer is the same for all and left out. Attention of transformers is given no mask, which favours it where layers
have windows: theirs are masks in memory. For capped scores it is the eager one, since SDPA has none.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from litespark.benchmarks.profile.scopes import annotated
from litespark.benchmarks.step.huggingface import causal_attention
from litespark.benchmarks.traffic.counting import Phase, TrafficMode
from litespark.benchmarks.traffic.family_models import FamilyModel
from litespark.benchmarks.traffic.inductor import scheduled
from litespark.benchmarks.traffic.steps import COUNTED, as_on_gpu
from litespark.models.huggingface.apply import apply_ops
from litespark.ops.backend import BACKENDS, OpsConfig, resolve
from litespark.training.parallel.precision import forward_context

UNMODIFIED, COMPILED, LIGER, OURS = "unmodified", "compiled", "liger", "litespark"
FAMILY_VARIANTS = {
    UNMODIFIED: "transformers as it is",
    COMPILED: "transformers by torch.compile, the whole model",
    LIGER: "transformers with Liger's patch, made before the model is",
    OURS: "transformers with litespark.apply",
}


def why_not_family(variant: str) -> str | None:
    """Why a variant cannot be counted here, with what would mend it."""
    needed = ["transformers"] + ["liger_kernel"] * (variant == LIGER)
    missing = [name.replace("_", "-") for name in needed if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} is not installed; pip install {' '.join(missing)}" if missing else None


def counted_family(family: FamilyModel, variant: str, layers: int, sequences: int, length: int) -> list[Phase]:
    """Of a model with so many layers: the first micro-batch of a step, a later one, and nothing behind them."""
    with ExitStack() as stack:
        if variant == LIGER:
            stack.enter_context(_patched_by_liger(family.model_type))
        stack.enter_context(as_on_gpu())
        stack.enter_context(_one_sequence_each())
        model = _model(family, layers)
        if variant == OURS:
            _apply(model, family, length)
        tokens = torch.zeros(sequences, length, dtype=torch.int64)
        count = torch.full((), tokens.numel(), dtype=torch.float32)
        mode = TrafficMode(model.parameters(), tokens=tokens.numel(), pairs=tokens.numel() * (length + 1) // 2)
        forward: Callable[..., Any] = model
        if variant == COMPILED:
            forward = stack.enter_context(scheduled(model, mode.launch_fused))
        elif variant != OURS:  # whose ops have names, and whose layers look at what is around others
            stack.enter_context(annotated(model))
        stack.enter_context(mode.counting())

        def micro_batch() -> None:
            labels = {"labels": tokens, "shift_labels": tokens, "num_items_in_batch": count}
            with forward_context("bf16", COUNTED):
                loss = forward(tokens, **labels, use_cache=False).loss
            loss.backward()

        micro_batch()
        model.zero_grad()
        mode.restart()
        micro_batch()
        micro_batch()
        return mode.phases


def _model(family: FamilyModel, layers: int) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind: Any = CONFIG_MAPPING[family.model_type]
    config = kind(**family.sizes, num_hidden_layers=layers, use_cache=False)
    attention = "eager" if family.caps_scores else causal_attention()
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()


def _apply(model: Any, family: FamilyModel, length: int) -> None:
    """As `litespark.apply` does on an H200, by the order of the backends, and without trying it on tokens."""
    backends: dict[str, Any] = {op: next(iter(known)) for op, known in BACKENDS.items()}
    # cuDNN's kernels, which take neither windows nor caps
    windows = (getattr(layer, "sliding_window", None) or length for layer in model.modules())
    plain = not family.caps_scores and min(windows) >= length
    backends["attention"] = "sdpa" if plain else "triton"
    config = OpsConfig(**backends)
    apply_ops(model, resolve(config), config.backends(), probing=False)


@contextmanager
def _one_sequence_each() -> Iterator[None]:
    """Within it transformers finds no packed sequences: without values it would take any for them."""
    from transformers import masking_utils

    def none_found(position_ids: Tensor) -> None:  # a function, which a compiler reads, as it does not a mock
        return None

    with mock.patch.object(masking_utils, "find_packed_sequence_indices", none_found):
        yield


@contextmanager
def _patched_by_liger(model_type: str) -> Iterator[None]:
    """Within it models of a type are made with Liger's layers; afterwards transformers is as it was."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    names = vars(sys.modules[kind.__module__])
    before, forward = dict(names), kind.forward
    try:
        MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]()
        yield
    finally:
        kind.forward = forward
        names.clear()
        names.update(before)
