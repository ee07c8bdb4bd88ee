"""A causal language model of transformers, called as training calls a model.

B batch, S sequence length, D hidden size, V vocabulary.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from litespark.models.huggingface.apply import Module, apply_ops, family_of, ops_of
from litespark.models.huggingface.attention import PREFIX, packed
from litespark.models.huggingface.head import loss_of
from litespark.models.huggingface.initial import restore_buffers
from litespark.models.huggingface.layers import is_replaced
from litespark.models.spec import ModelSpec, Recompute
from litespark.ops.attention.documents import Documents
from litespark.ops.backend import REFERENCE, Ops, names_of
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses


class OfTransformers(ModelSpec, Protocol):
    """Settings with the config of transformers."""

    @property
    def transformers(self) -> Any: ...
    @property
    def num_labels(self) -> int | None: ...


class CausalLM(nn.Module):
    """Ids (B, S) -> logits (B, S, V), or with labels the loss, of the model that a config of transformers describes.

    `applied` is what computes with `ops`, as `litespark.apply` says it; nothing where all of them are references.
    `causal_lm`: one that is made already, of `config`.
    """

    def __init__(self, config: OfTransformers, ops: Ops, recompute: Recompute, causal_lm: Any = None) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.config = config
        self.causal_lm = causal_lm
        if causal_lm is None:
            of_transformers = copy.deepcopy(config.transformers)
            of_transformers.tie_word_embeddings &= config.num_labels is None  # a head of labels is no embedding
            self.causal_lm = AutoModelForCausalLM.from_config(of_transformers, dtype=torch.float32)
        if config.num_labels is not None:
            head = nn.Linear(config.transformers.hidden_size, config.num_labels, bias=False)
            self.causal_lm.set_output_embeddings(head)
        names = inspect.signature(self.causal_lm.forward).parameters
        used, self.ops = names_of(ops), ops
        self.applied: list[Module] = []
        if set(used.values()) != {REFERENCE} and ops_of(self.causal_lm):
            # on meta nothing can be tried: the table is taken at its word
            self.applied = apply_ops(self.causal_lm, ops, used, probing=False)
        head = self.causal_lm.get_output_embeddings()
        plain = isinstance(head, nn.Linear) and head.bias is None
        self.head = family_of(self.causal_lm).head if plain and is_replaced(self.causal_lm) else None
        # both have other names in earlier versions of transformers
        if recompute == "full":
            enable = getattr(self.causal_lm, "activation_checkpointing_enable", None)
            (enable or self.causal_lm.gradient_checkpointing_enable)({"use_reentrant": False})
            # which another way of checkpointing needs: below an adapter it would cost a layer's gradients
            self.causal_lm.disable_input_require_grads()
        self._cache_argument = "cache" if "cache" in names else "past_key_values"
        self._keeps_logits = "logits_to_keep" in names

    @property
    def head_weight(self) -> Tensor:
        """(V, D), or as many rows as there are labels."""
        weight: Tensor = self.causal_lm.get_output_embeddings().weight
        return weight

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers, in order."""
        lists = [part for part in self.causal_lm.modules() if isinstance(part, nn.ModuleList)]
        return next(list(layers) for layers in lists if len(layers) == self.config.num_layers)

    def matrices(self) -> dict[Tensor, tuple[int, ...]]:
        """See `HasMatrices`: the linear layers of the decoder layers, each in one part."""
        linears = (part for layer in self.layers for part in layer.modules() if isinstance(part, nn.Linear))
        return {linear.weight: (linear.weight.shape[0],) for linear in linears}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CausalLM":
        # to_empty() from meta makes two of a parameter that two modules share, and nothing of buffers that are in no
        # checkpoint, which stay fp32 through .to(bfloat16) too
        super()._apply(fn, recurse)
        self.causal_lm.tie_weights()
        restore_buffers(self.causal_lm)
        return self

    def new_cache(self, capacity: int) -> Any:
        """See `Generates`; a `TransformersCache`."""
        from litespark.models.huggingface.cache import TransformersCache

        return TransformersCache(self.config.transformers, capacity)

    def run_on_meta(self) -> None:
        """A forward pass of a model without values: with a mask, since what makes one looks at values."""
        tokens = torch.zeros(1, 2, dtype=torch.int64, device="meta")
        self.causal_lm(input_ids=tokens, attention_mask=torch.zeros(1, 1, 2, 2, device="meta"), use_cache=False)

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        branches: Tensor | None = None,
        cache: Any = None,
        reduction: Reduction = "sum",
        temperature: float = 1.0,
    ) -> Tensor | TokenLosses:
        """Logits (B, S, V) in fp32, or with labels the loss; see `models.llama.model.Llama.forward`.

        Documents are told apart by their positions, which restart at 0.
        """
        # without use_cache=False transformers lets documents see each other
        options: dict[str, Any] = {"input_ids": tokens, "position_ids": positions, "use_cache": cache is not None}
        if cache is not None:
            options[self._cache_argument] = cache.held
            options |= {"logits_to_keep": 1} if cache.only_last and self._keeps_logits else {}
            if (visible := cache.visible(tokens.shape[1])) is not None:
                options |= {"attention_mask": visible, "position_ids": cache.positions(tokens.shape[1], tokens.device)}
        ours = self.causal_lm.config._attn_implementation.startswith(PREFIX)
        if branches is not None and not ours:
            raise ValueError(
                f"{type(self.causal_lm).__name__} attends by itself, expected by an op, since its documents have "
                "branches; choose ops.attention=sdpa, or data.share_prompts=false"
            )
        with ExitStack() as stack:
            if documents is not None and ours:
                within = Documents(documents, cu_seqlens, branches)
                within.prepare()
                stack.enter_context(packed(within))
                options["attention_mask"] = torch.ones_like(tokens, dtype=torch.bool)
            if labels is not None and self.head is not None:
                hidden = self.causal_lm.base_model(**options).last_hidden_state
                of_head = self.causal_lm, self.head, self.ops
                return loss_of(*of_head, hidden, labels, reduction=reduction, temperature=temperature)
            if self.config.num_labels is None:
                logits = self.causal_lm(**options).logits
            else:  # no cap and no divisor, which are of tokens
                logits = self.causal_lm.get_output_embeddings()(self.causal_lm.base_model(**options).last_hidden_state)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if labels is None:
            return logits
        logits = logits / temperature
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        if reduction == "none":
            return TokenLosses(nats, logits.argmax(dim=-1) == labels)
        assert reduction == "sum"
        return nats.sum()
