"""A causal language model of transformers, called as training calls a model.

B batch, S sequence length, D hidden size, V vocabulary.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from litespark.models.huggingface.initial import restore_buffers
from litespark.models.spec import ModelSpec, Recompute
from litespark.ops.backend import Ops
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses


class OfTransformers(ModelSpec, Protocol):
    """Settings with the config of transformers."""

    @property
    def transformers(self) -> Any: ...


class CausalLM(nn.Module):
    """Ids (B, S) -> logits (B, S, V), or with labels the loss, of the model that a config of transformers describes."""

    def __init__(self, config: OfTransformers, ops: Ops, recompute: Recompute) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.config = config
        self.causal_lm = AutoModelForCausalLM.from_config(config.transformers, dtype=torch.float32)
        names = inspect.signature(self.causal_lm.forward).parameters
        # both have other names in earlier versions of transformers
        if recompute == "full":
            enable = getattr(self.causal_lm, "activation_checkpointing_enable", None)
            (enable or self.causal_lm.gradient_checkpointing_enable)({"use_reentrant": False})
        self._cache_argument = "cache" if "cache" in names else "past_key_values"

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers, in order."""
        lists = [part for part in self.causal_lm.modules() if isinstance(part, nn.ModuleList)]
        return next(list(layers) for layers in lists if len(layers) == self.config.num_layers)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CausalLM":
        # to_empty() from meta makes two of a parameter that two modules share, and nothing of buffers that are in no
        # checkpoint, which stay fp32 through .to(bfloat16) too
        super()._apply(fn, recurse)
        self.causal_lm.tie_weights()
        restore_buffers(self.causal_lm)
        return self

    def new_cache(self, capacity: int) -> Any:
        """See `Generates`; it grows as it is filled."""
        from transformers import DynamicCache

        return DynamicCache(config=self.config.transformers)

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        cache: Any = None,
        reduction: Reduction = "sum",
    ) -> Tensor | TokenLosses:
        """Logits (B, S, V) in fp32, or with labels the loss; see `models.llama.model.Llama.forward`.

        Documents are told apart by their positions, which restart at 0.
        """
        # without use_cache=False transformers lets documents see each other
        options = {"use_cache": False} if cache is None else {"use_cache": True, self._cache_argument: cache}
        logits = self.causal_lm(input_ids=tokens, position_ids=positions, **options).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if labels is None:
            return logits
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        if reduction == "none":
            return TokenLosses(nats, (logits.argmax(dim=-1) == labels) & (labels != -100))
        assert reduction == "sum"
        return nats.sum()
