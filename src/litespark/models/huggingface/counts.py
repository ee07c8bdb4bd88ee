"""Parameters and FLOPs of any Hugging Face causal LM, from its config alone, by the types of its layers.

The model is built on meta and walked: `_matmul_parameters` and `_attention` are the rules. Then PyTorch's
`FlopCounterMode` counts a forward pass on meta. What the rules do not know, such as a convolution or the scan of a
state space model, is the difference, and `Counts.counted` names the layers where it is. `planning.flops` has the
conventions; the product that makes rotary angles is left out as norms are.
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from litespark.models.huggingface.sizes import window_of
from litespark.models.spec import FAILS_WITHOUT_VALUES, Recompute

# a multiple of the chunks in which most linear attention computes
_LENGTH = 64


class AttentionCount(NamedTuple):
    """Of attention layers alike: H · (size of a key + size of a value), summed, and the keys that a query sees."""

    width: float
    window: int | None


@dataclass(frozen=True)
class Counts:
    """What `ModelSpec` asks of a model, where it is that of transformers.

    `recomputed_parameters` are those of `matmul_parameters` that full recomputation multiplies with again. `counted`
    are classes of layers that no rule knows, whose products PyTorch counted; where it could not, `uncounted` is the
    reason, and the model is taken to be what the rules know, all of it recomputed but the head.
    """

    parameters: int
    matmul_parameters: int
    attention: tuple[AttentionCount, ...]
    recomputed_parameters: int
    counted: tuple[str, ...] = ()
    uncounted: str | None = None

    def attention_flops(self, mean_keys: float) -> float:
        """12 · H · Dh · keys of each layer (6 · H · (Dk + Dv) where keys and values differ), forward and backward.

        Keys are `mean_keys`, or with a window what is left of them, see `keys_in_window`.
        """
        return sum(6 * width * keys_in_window(mean_keys, window) for width, window in self.attention)

    def recomputed_flops(self, mean_keys: float, recompute: Recompute) -> float:
        """See `ModelSpec`: "full" makes each layer again, up to the last product that its backward pass reads."""
        if recompute != "full":
            return 0.0
        return 2 * self.recomputed_parameters + self.attention_flops(mean_keys) / 3


def keys_in_window(mean_keys: float, window: int | None) -> float:
    """Keys that a query sees on average where it sees `window` at most, itself among them.

    `mean_keys` m is what it sees without one, and is taken to be that of causal sequences of one length, n = 2m - 1.
    Longer than the window w, the first w queries see (w+1)/2 and the others w: w - w(w-1)/(2n). For whole sequences it
    is exact. For documents of several lengths it is an upper bound, since the mean is concave in m.
    """
    length = 2 * mean_keys - 1
    if window is None or length <= window:
        return mean_keys
    return window - window * (window - 1) / (2 * length)


def counts_of(model_or_config: Any) -> Counts:
    """The counts of a transformers causal LM, or of one as it would be made of a config; no weights are made."""
    config = copy.deepcopy(getattr(model_or_config, "config", model_or_config))
    model = _on_meta(config, type(model_or_config) if isinstance(model_or_config, nn.Module) else None)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rules = {name: _Rule(_matmul_parameters(layer, config), _attention(layer)) for name, layer in model.named_modules()}
    products = sum(rule.products for rule in rules.values())
    attention = [rule.attention for rule in rules.values() if rule.attention is not None]
    length = min(_LENGTH, (getattr(config.get_text_config(), "max_position_embeddings", None) or _LENGTH * 3) // 3)
    layers: list[_Layer] = []
    try:
        counted, masked = _forward_either_way(model, length, layers)
        again = _recomputed(layers) / length - 2 * length * sum(one.width for one in attention)
        unknown = [name for name, rule in rules.items() if counted.get(name, 0) != rule.flops(length)]
        if unknown:
            others = [sum(_forward(model, length * times, masked).values()) for times in (2, 3)]
    except FAILS_WITHOUT_VALUES as error:
        reason = f"PyTorch cannot count it without values: {type(error).__name__}: {error}".splitlines()[0]
        return Counts(trained, products, _alike(attention), products - _head(model), uncounted=reason)
    if unknown:
        # what is beyond the rules, at lengths 1 to 3: a constant, so much a token, and so much a token and key
        sums = [sum(counted.values()), *others]
        known = (sum(rule.flops(length * times) for rule in rules.values()) for times in (1, 2, 3))
        one, two, three = (total - ruled for total, ruled in zip(sums, known, strict=True))
        keys = (three - 2 * two + one) / (2 * length**2)
        products += round(((two - one) / length - 3 * length * keys) / 2)
        attention += [AttentionCount(keys / 2, None)] if keys else []
        again -= length * keys
    kinds = tuple(sorted({type(model.get_submodule(name)).__name__ for name in unknown}))
    recomputed = round(again / 2) if layers else products - _head(model)
    return Counts(trained, products, _alike(attention), recomputed, kinds)


class _Rule(NamedTuple):
    """What the rules say of one layer: parameters that a token is multiplied with, and attention."""

    products: int
    attention: AttentionCount | None

    def flops(self, length: int) -> float:
        """Forward, of a sequence of that length with full attention."""
        width = 0.0 if self.attention is None else self.attention.width
        return 2 * length * (self.products + length * width)


def _on_meta(config: Any, kind: type[nn.Module] | None) -> Any:
    """The model, with plain attention and experts in products whose sizes do not depend on values."""
    from transformers import AutoModelForCausalLM

    make = AutoModelForCausalLM.from_config if kind is None else kind._from_config  # type: ignore[attr-defined]
    with torch.device("meta"):
        model = make(config, attn_implementation="eager")
    if model._can_set_experts_implementation():
        model.set_experts_implementation("batched_mm")
    for layer in model.modules():
        kinds = getattr(layer, "rope_type", None)  # some look at values of positions to choose their angles
        if kinds is not None:
            layer.rope_type = dict.fromkeys(kinds, "default") if isinstance(kinds, dict) else "default"
    return model.eval()


def _matmul_parameters(layer: nn.Module, config: Any) -> int:
    """Parameters of the layer itself that a token is multiplied with: of experts, those of as many as it goes to."""
    kinds = {kind.__name__ for kind in type(layer).__mro__}
    if kinds & {"Linear", "Conv1D"} or type(layer).__name__.endswith("Router"):
        return layer.weight.numel() if isinstance(layer.weight, Tensor) else 0
    if type(layer).__name__.endswith("Experts"):
        each = getattr(config.get_text_config(), "num_experts_per_tok", None) or 0
        stacks = [stack for stack in layer.parameters(recurse=False) if stack.ndim == 3]
        return sum(each * stack[0].numel() for stack in stacks)
    return 0


def _attention(layer: Any) -> AttentionCount | None:
    """Of a layer that calls transformers' `AttentionInterface`; None: it is something else."""
    forward = inspect.unwrap(type(layer).forward)
    if "ALL_ATTENTION_FUNCTIONS" not in getattr(forward, "__code__", forward).co_names:
        return None
    config = layer.config
    head_dim: Any = getattr(layer, "head_dim", None) or getattr(layer, "head_size", 0)
    # of multi-head latent attention a key has another size than a value
    sizes = getattr(layer, "qk_head_dim", head_dim) + getattr(layer, "v_head_dim", head_dim)
    return AttentionCount(config.num_attention_heads * sizes, window_of(layer))


def _alike(attention: list[AttentionCount]) -> tuple[AttentionCount, ...]:
    widths: defaultdict[int | None, float] = defaultdict(float)
    for width, window in attention:
        widths[window] += width
    return tuple(AttentionCount(width, window) for window, width in widths.items())


def _head(model: Any) -> int:
    head = model.get_output_embeddings()
    return 0 if head is None else head.weight.numel()


@dataclass(frozen=True)
class _Layer:
    """A layer that recomputation makes again, with what it was called with."""

    layer: nn.Module
    stream: Tensor
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def kind(self) -> tuple[Any, ...]:
        """Layers of one kind cost the same."""
        shapes = tuple((name, parameter.shape) for name, parameter in self.layer.named_parameters())
        return type(self.layer), shapes


def _forward_either_way(model: nn.Module, length: int, layers: list[_Layer]) -> tuple[dict[str, int], bool]:
    """`_forward`, with a mask or else without one, and whether there was one."""
    try:
        return _forward(model, length, True, layers), True
    except FAILS_WITHOUT_VALUES:
        layers.clear()
        return _forward(model, length, False, layers), False


def _forward(model: nn.Module, length: int, masked: bool, layers: list[_Layer] | None = None) -> dict[str, int]:
    """Operations of each layer itself for a sequence of that length, but those of rotary angles; fills in `layers`.

    `masked` is with a mask already made: what makes one looks at values. Some models take no such mask.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    def keep(layer: nn.Module, arguments: Any, options: Any) -> None:
        stream, *others = arguments or (options.pop("hidden_states"),)
        assert layers is not None
        layers.append(_Layer(layer, stream, tuple(others), options))

    hooks = []
    if layers is not None:
        recomputed = (layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer))
        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in recomputed]
    counter = FlopCounterMode(display=False)
    tokens = torch.zeros(1, length, dtype=torch.int64, device="meta")
    mask = torch.zeros(1, 1, length, length, device="meta") if masked else None
    try:
        with torch.no_grad(), counter:
            model(input_ids=tokens, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    by_path = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items() if path != "Global"}
    own = dict(by_path)
    for path, flops in by_path.items():
        above = path
        while above := above.rpartition(".")[0]:
            if above in own:  # lists of layers are not called
                own[above] -= flops
                break
    names = {path: path.partition(".")[2] for path in own}
    return {names[path]: flops for path, flops in own.items() if not names[path].endswith("rotary_emb")}


def _recomputed(layers: list[_Layer]) -> float:
    """Operations that a sequence costs more where its layers are recomputed; one layer of each kind is counted."""
    known: dict[tuple[Any, ...], float] = {}
    for layer in layers:
        if layer.kind() not in known:
            known[layer.kind()] = _step(layer, recompute=True) - _step(layer, recompute=False)
    return sum(known[layer.kind()] for layer in layers)


def _step(layer: _Layer, *, recompute: bool) -> float:
    call: Callable[..., Any] = partial(checkpoint, layer.layer, use_reentrant=False) if recompute else layer.layer
    counter = FlopCounterMode(display=False)
    with counter:
        result = call(layer.stream.detach().requires_grad_(), *layer.arguments, **layer.options)
        stream = result if isinstance(result, Tensor) else result[0]
        stream.backward(torch.empty_like(stream))
    return counter.get_total_flops()
