"""Llama, top-down: norm, rotary tables, attention, MLP, block, model; the arithmetic lives in `litespark.ops`.

Touvron et al., arXiv:2302.13971 and "The Llama 3 Herd of Models", arXiv:2407.21783.

B batch, S sequence length, D hidden size, L layers, H query heads, K key/value heads, Dh head dim, F intermediate size,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from litespark.models.cache import KeyValueCache
from litespark.models.llama.config import LlamaConfig
from litespark.models.spec import Recompute
from litespark.ops.attention.cached import attention_to_visible
from litespark.ops.attention.documents import Documents
from litespark.ops.backend import Ops
from litespark.ops.custom_op import traced
from litespark.ops.linear.function import norm_linear, projection_mlp
from litespark.ops.linear.kept import KeptLinear
from litespark.ops.linear.state import BlockLinears, Fp8State
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses
from litespark.ops.rope.reference import inverse_frequencies, rope_tables


class RMSNorm(nn.Module):
    """The residual stream (..., D), with an update (..., D) added to it if there is one -> the stream, its RMSNorm."""

    def __init__(self, hidden_size: int, eps: float, ops: Ops) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps
        self.ops = ops

    def forward(self, x: Tensor, update: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if update is None:
            return x, self.ops.rms_norm(x, self.weight, self.eps)
        return self.ops.add_rms_norm(x, update, self.weight, self.eps)


class Rotary(nn.Module):
    """Positions (B, S) -> cos and sin, each (B, S, Dh/2) in fp32, times YaRN's attention factor where there is one."""

    inverse_frequencies: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.attention_factor = None if config.rope_scaling is None else config.rope_scaling.attention_factor
        # torch.empty follows `with torch.device("meta")`
        self.register_buffer("inverse_frequencies", torch.empty(config.head_dim // 2), persistent=False)
        self._compute()

    def _compute(self) -> None:
        if not self.inverse_frequencies.is_meta:
            config, device = self.config, self.inverse_frequencies.device
            values = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
            self.inverse_frequencies = values.to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rotary":
        # the buffer is in no checkpoint: it must outlive to_empty() from meta, and stay fp32 through .to(bfloat16)
        super()._apply(fn, recurse)
        self._compute()
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = rope_tables(positions, self.inverse_frequencies)
        factor = self.attention_factor
        return (cos, sin) if factor is None else (cos * factor, sin * factor)


@dataclass(frozen=True)
class Context:
    """Where tokens stand and what they see."""

    cos: Tensor
    sin: Tensor
    documents: Documents | None = None
    cache: KeyValueCache | None = None
    # (B, T), where a new token of each sequence does not see all that is cached
    visible: Tensor | None = None


class Attention(nn.Module):
    """(B, S, D) -> (B, S, D). Query, key and value come from one matrix: rows of H, then K, then K heads."""

    def __init__(self, config: LlamaConfig, layer: int, ops: Ops) -> None:
        super().__init__()
        self.layer = layer
        self.ops = ops
        self.dh = config.head_dim
        self.num_kv_heads = config.num_kv_heads
        heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = KeptLinear(config.hidden_size, heads * config.head_dim, config.attention_bias)
        self.output = KeptLinear(config.num_heads * config.head_dim, config.hidden_size, config.attention_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.output(self.attend(self.qkv(x), context))

    def attend(self, qkv: Tensor, context: Context) -> Tensor:
        """What lies between the two matrices: (B, S, (H + 2K)·Dh) -> (B, S, H·Dh)."""
        heads = qkv.unflatten(-1, (-1, self.dh))
        query, key, value = self.ops.rope(heads, context.cos, context.sin, self.num_kv_heads)
        if context.cache is not None:
            key, value = context.cache.extend(self.layer, key, value)
            if context.visible is not None:
                return attention_to_visible(query, key, value, context.visible).flatten(-2)
        return self.ops.attention(query, key, value, context.documents).flatten(-2)

    def matrices(self) -> dict[Tensor, tuple[int, ...]]:
        """See `HasMatrices`."""
        heads, num_kv_heads = self.output.in_features, self.num_kv_heads * self.dh
        return {self.qkv.weight: (heads, num_kv_heads, num_kv_heads), self.output.weight: (self.output.out_features,)}


class MLP(nn.Module):
    """(B, S, D) -> (B, S, D) by way of (B, S, 2F) and (B, S, F). Gate and up come from one matrix, gate first."""

    def __init__(self, config: LlamaConfig, ops: Ops, recompute: Recompute) -> None:
        super().__init__()
        self.ops = ops
        self.recompute = recompute
        self.gate_up = KeptLinear(config.hidden_size, 2 * config.intermediate_size, config.mlp_bias)
        self.down = KeptLinear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute == "swiglu":
            y = self.ops.swiglu_linear(self.gate_up(x), self.down.weight)
            return y if self.down.bias is None else y + self.down.bias.to(y.dtype)
        return self.down(self.ops.swiglu(self.gate_up(x)))

    def matrices(self) -> dict[Tensor, tuple[int, ...]]:
        """See `HasMatrices`."""
        width = self.down.in_features
        return {self.gate_up.weight: (width, width), self.down.weight: (self.down.out_features,)}


class Block(nn.Module):
    """One layer: attention, then MLP, each on the normalised residual stream, to which their outputs are added.

    The last output is returned beside the stream and not yet added, so that an op can fuse it with the norm behind.
    """

    def __init__(self, config: LlamaConfig, layer: int, ops: Ops, recompute: Recompute) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps, ops)
        self.attention = Attention(config, layer, ops)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, ops)
        self.mlp = MLP(config, ops, recompute)
        self.ops = ops
        self.fp8: BlockLinears | None = None

    def forward(self, x: Tensor, update: Tensor | None, context: Context) -> tuple[Tensor, Tensor]:
        """The stream and what the block before adds to it -> the stream and what this block adds to it."""
        # generation multiplies a row or a few, which fp8 does not make faster
        if self.fp8 is not None and self.fp8.in_fp8 and context.cache is None:
            return self._forward_fp8(x, update, context, self.fp8)
        # what the ops refuse is left to them to refuse
        ordinary = x.dtype != torch.float64 and context.cos.dtype == torch.float32 and context.cache is None
        if ordinary and not traced(x) and (layers := self._layers_as_built()) is not None:
            halves = self.ops.halves.get("swiglu_linear" if self.mlp.recompute == "swiglu" else "swiglu")
            if halves is not None:
                return self._forward_in_halves(x, update, context, halves, layers)
        x, normed = self.attention_norm(x, update)
        x, normed = self.mlp_norm(x, self.attention(normed, context))
        return x, self.mlp(normed)

    def _forward_fp8(
        self, x: Tensor, update: Tensor | None, context: Context, linears: BlockLinears
    ) -> tuple[Tensor, Tensor]:
        """The same, cut so that what stands before a matrix product hands its result over in fp8."""
        norm = self.attention_norm
        x, qkv = norm_linear(x, update, norm.weight, norm.eps, linears.qkv)
        attended = self.attention.attend(qkv, context)
        norm, recompute = self.mlp_norm, self.mlp.recompute == "swiglu"
        return projection_mlp(x, attended, norm.weight, norm.eps, linears, recompute=recompute)

    def _forward_in_halves(
        self, x: Tensor, update: Tensor | None, context: Context, halves: Any, layers: list[KeptLinear]
    ) -> tuple[Tensor, Tensor]:
        """The same for what nothing traces, with few calls and nodes of autograd."""
        attention, norm = self.attention, self.attention_norm
        qkv, *layers = layers
        x, query, key, value = halves.norm_qkv_rope(
            x, update, norm.weight, norm.eps, qkv, context.cos, context.sin, attention.num_kv_heads
        )
        attended, norm = attention.ops.attention(query, key, value, context.documents), self.mlp_norm
        recompute = self.mlp.recompute == "swiglu"
        return halves.projection_mlp(x, attended, norm.weight, norm.eps, layers, recompute=recompute)

    def _layers_as_built(self) -> list[KeptLinear] | None:
        """qkv, output, gate_up and down; None where a part of the block is of another kind than it was built from, or a
        hook waits to be called."""
        layers = []
        # each block asks in each pass, and in these dictionaries a name is found at once
        parts = self._modules
        for name, kind in _PARTS.items():
            part = parts[name]
            if part is None or type(part) is not kind or _hooked(part):
                return None
            for layer in part._modules.values():
                if type(layer) is not KeptLinear or _hooked(layer):
                    return None
                layers.append(layer)
        return layers


_PARTS = {"attention_norm": RMSNorm, "attention": Attention, "mlp_norm": RMSNorm, "mlp": MLP}


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


class Llama(nn.Module):
    """The model. `fp8` is what `models.llama.fp8.enable_fp8` made, None where it is not in fp8; see `HasResidual`."""

    def __init__(self, config: LlamaConfig, ops: Ops, recompute: Recompute = "none") -> None:
        super().__init__()
        self.config = config
        self.ops = ops
        self.recompute = recompute
        self.fp8: Fp8State | None = None
        self.residual_dtype: torch.dtype | None = None
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary = Rotary(config)
        self.blocks = nn.ModuleList(Block(config, layer, ops, recompute) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, ops)
        self.head = None if config.ties_head else nn.Linear(config.hidden_size, config.head_rows, bias=False)

    def new_cache(self, capacity: int) -> KeyValueCache:
        """See `Generates`."""
        return KeyValueCache(self.config.num_layers, capacity)

    @property
    def head_weight(self) -> Tensor:
        """(V, D): the head's weight, which is the embedding's when they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        branches: Tensor | None = None,
        cache: KeyValueCache | None = None,
        reduction: Reduction = "sum",
        temperature: float = 1.0,
    ) -> Tensor | TokenLosses:
        """Logits (B, S or 1, V) in fp32, or, with labels, the loss (so that FSDP has gathered the head for it).

        Args:
            tokens: (B, S) integer ids below V. The range is not checked here: that would wait for the device.
            labels: (B, S) int64, already shifted: the id that follows each token, or -100 where none is predicted.
            positions: (B, S) integers, restarting at 0 in each document; None: 0..S-1, after what `cache` holds.
            documents: (B, S) integers; tokens of a sequence see each other only within one number. None: all do.
            cu_seqlens: of `documents`, as a `TokenBatch` has them; without them some attention backends wait for the
                device to count.
            branches: (B, S) integers, with `documents`: a token sees those of its document that have its number or 0.
            cache: keys and values of earlier tokens, extended by this call; not together with `documents`. It may say
                that sequences begin with padding, which is read together with what follows it.
            reduction: "sum" gives the nats of the labels that count (an fp32 scalar), "none" `TokenLosses`.
            temperature: divides the logits of a loss.

        Raises:
            ValueError: shapes or dtypes are not as above, or the sequence is longer than `max_seq_len`.
        """
        past = 0 if cache is None else cache.length
        self._check(
            tokens, past, {"labels": labels, "positions": positions, "documents": documents, "branches": branches}
        )
        if cache is not None and documents is not None:
            raise ValueError("documents cannot be combined with a key/value cache; generate from single documents")
        count = tokens.shape[1]
        if positions is None and cache is not None:
            positions = cache.positions(count, tokens.device)
        elif positions is None:
            positions = torch.arange(count, device=tokens.device).unsqueeze(0)
        visible = None if cache is None else cache.visible(count)
        if visible is not None and past == 0:
            documents, visible = visible.to(torch.int32), None  # padding sees padding, and nobody else does

        cos, sin = self.rotary(positions)
        within = None if documents is None else Documents(documents, cu_seqlens, branches)
        if within is not None:
            within.prepare()
        context = Context(cos, sin, within, cache, visible)
        x, update = self.embedding(tokens).to(self.residual_dtype), None
        recompute = self.recompute == "full" and self.training and torch.is_grad_enabled() and cache is None
        for block in self.blocks:
            if recompute:
                # added here, so that one tensor is kept for each block and not two
                x = x if update is None else x + update
                x, update = checkpoint(block, x, None, context, use_reentrant=False)
            else:
                x, update = block(x, update, context)
        if cache is not None:
            cache.length += count
            if cache.only_last:
                x, update = x[:, -1:], None if update is None else update[:, -1:]
        _, x = self.norm(x, update)

        if labels is None:
            logits = nn.functional.linear(x, self.head_weight)
            return logits.to(torch.promote_types(logits.dtype, torch.float32))
        if temperature != 1.0:
            x = x / temperature
        return self.ops.linear_cross_entropy(x, self.head_weight, labels, reduction=reduction)

    def _check(self, tokens: Tensor, past: int, others: dict[str, Tensor | None]) -> None:
        """Refuse what can be refused without looking at values, which may be on a device."""
        if tokens.ndim != 2 or tokens.shape[1] == 0 or tokens.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"tokens are {tuple(tokens.shape)} {tokens.dtype}; expected (B, S) int64 or int32 with S of at least 1"
            )
        if past + tokens.shape[1] > self.config.max_seq_len:
            cached = f" after {past} cached ones" if past else ""
            raise ValueError(
                f"a sequence of {tokens.shape[1]} tokens{cached} is longer than model.max_seq_len "
                f"{self.config.max_seq_len}; shorten the sequences or raise that setting"
            )
        for name, tensor in others.items():
            if tensor is not None and tensor.shape != tokens.shape:
                raise ValueError(f"{name} are {tuple(tensor.shape)}; expected {tuple(tokens.shape)}, as tokens are")
