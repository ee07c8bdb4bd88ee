"""The layers of transformers models computed by our ops: one forward a kind of layer, whatever the family.

A replaced module gets a subclass of its own class, and nothing else of it changes: names of its parameters, hooks,
copies, and what asks for its class stay as they are. B batch, S sequence length, D hidden size, H query heads, K
key/value heads, Dh head dim, F intermediate size.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from litespark.models.huggingface.fp8 import InFp8, Joined, Renewal
from litespark.models.huggingface.head import head_forward
from litespark.models.huggingface.sizes import window_of
from litespark.models.huggingface.table import Attention, Head, Layer, Mlp, Norm
from litespark.ops.backend import Ops
from litespark.ops.linear.function import norm_linear, projection_mlp
from litespark.ops.linear.joined import apart, hooked, is_plain, joined
from litespark.ops.linear.state import BlockLinears

Row = Norm | Attention | Mlp | Layer | Head


@dataclass(frozen=True)
class Replaced:
    """What a replaced module computes with; `module.litespark`."""

    row: Row
    ops: Ops
    device: str | None  # type of the device that the ops were chosen for; None: of any
    # of attention and MLP, and of a block whose norms and SwiGLU hand over fp8, and the first of those norms
    fp8: InFp8 | None = None
    following: Any = None  # of a block: the norm that what it returns goes to


def put_in(module: Any, row: Row, ops: Ops, device: str | None) -> None:
    """Let `module` compute with `ops` as `row` says."""
    module.litespark = Replaced(row, ops, device)
    kinds: Any = type(module), type(row)
    module.__class__ = _replacing(*kinds)


def take_out(module: Any) -> None:
    """Undo `put_in`."""
    del module.litespark
    module.__class__ = type(module).replaces


def is_replaced(module: nn.Module) -> bool:
    return isinstance(vars(module).get("litespark"), Replaced)


def original(module: Any) -> type | None:
    """The class of transformers that a replaced module is of; None: it is not replaced."""
    return type(module).replaces if is_replaced(module) else None


@functools.cache
def _replacing(original: Any, kind: Any) -> Any:
    """A subclass of `original` with the name of it, which transformers keeps records by."""
    ours = _FORWARDS[kind]

    @functools.wraps(original.forward)  # whose signature trainers read
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # who kept this method may call it after `take_out`
        return (ours if is_replaced(self) else original.forward)(self, *args, **kwargs)

    own = {"forward": forward, "replaces": original, "__reduce_ex__": _reduced}
    return type(original.__name__, (original,), own | {k: getattr(original, k) for k in ("__module__", "__qualname__")})


def _reduced(module: Any, protocol: Any) -> Any:
    """For copies and pickles, which do not find the subclass by its name."""
    return _unpickled, (type(module).replaces, type(module.litespark.row)), module.__getstate__()


def _unpickled(original: type, kind: type) -> nn.Module:
    replacing = _replacing(original, kind)
    return replacing.__new__(replacing)


# ---------------------------------------------------------------- one forward a kind


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    """(..., D) -> (..., D)."""
    normed = _normed_before(module, hidden_states)
    return normed if normed is not None else module.litespark.ops.rms_norm(hidden_states, *norm_arguments(module))


def _normed_before(norm: Any | None, x: Tensor) -> Tensor | None:
    """What `_sum_and_norm` made of `x` for a norm, or without one for products, unless somebody wrote into it since."""
    kept = None if torch.compiler.is_compiling() else vars(x).pop("litespark_normed", None)
    if kept is None or kept[0] is not norm or kept[1] != x._version:
        return None
    # a wrapper that recomputes the block by reentrant checkpointing makes it without gradients
    trained = torch.is_grad_enabled() and (x.requires_grad or (norm is not None and norm.weight.requires_grad))
    return None if trained and not kept[2].requires_grad else kept[2]


def norm_arguments(module: Any) -> tuple[Tensor, float]:
    """Weight (D,) and epsilon of a replaced norm."""
    offset = module.litespark.row.offset
    # in fp32, as transformers adds it: next to one, bf16 has no bits for small weights
    return module.weight.float() + offset if offset else module.weight, epsilon(module)


def epsilon(norm: Any) -> Any:
    """None: it has none."""
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else getattr(norm, "eps", None)


def _mlp(module: Any, hidden_states: Tensor) -> Tensor:
    """(..., D) -> (..., D)."""
    row, ops = module.litespark.row, module.litespark.ops
    if (options := activation(getattr(module, row.activation))) is None:  # somebody gave it another one since
        return type(module).replaces.forward(module, hidden_states)
    linear = in_fp8(module, "inputs", hidden_states)
    layers = [getattr(module, name) for name in row.inputs]
    gate_up = joined(hidden_states, layers) if linear is None else linear.multiply(hidden_states)
    return _output(module, ops.swiglu(gate_up, **options))


def in_fp8(module: Any, name: str, x: Tensor) -> Joined | None:
    """The "inputs" or "output" of attention or an MLP as they are to multiply `x`; None: not in fp8.

    Evaluation and generation are in the model's own dtype.
    """
    fp8, trains = module.litespark.fp8, module.training or torch.is_grad_enabled()
    if fp8 is None or not trains:
        return None
    row = module.litespark.row
    layers = [getattr(module, each) for each in (row.inputs if name == "inputs" else (row.output,))]
    return fp8.linear(name, x, layers)


def _output(module: Any, x: Tensor) -> Tensor:
    linear = in_fp8(module, "output", x)
    return joined(x, [getattr(module, module.litespark.row.output)]) if linear is None else linear.multiply(x)


def activation(function: Any) -> dict[str, str] | None:
    """What `swiglu` is told of an activation of transformers; None: it has none such."""
    return _ACTIVATIONS.get(type(function).__name__)


_ACTIVATIONS: dict[str, dict[str, str]] = {"SiLUActivation": {}, "SiLU": {}}
_ACTIVATIONS |= {name: {"activation": "gelu_tanh"} for name in ("GELUTanh", "PytorchGELUTanh")}


def _attention(
    module: Any, hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None, **kwargs: Any
) -> tuple[Tensor, Any]:
    """(B, S, D) -> (B, S, D), and the weights where the implementation of attention gives them."""
    row = module.litespark.row
    linear = in_fp8(module, "inputs", hidden_states)
    product = None if linear is None else linear.multiply(hidden_states)
    attended, weights = _between_projections(
        module, hidden_states, product, position_embeddings, attention_mask, **kwargs
    )
    result = _output(module, attended)
    if row.dropout is not None:
        result = functional.dropout(result, getattr(module, row.dropout), module.training)
    return result, weights


def _between_projections(
    module: Any, x: Tensor, product: Tensor | None, position_embeddings: Any = None, attention_mask: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:  # fmt: skip
    """What lies between the projections: (B, S, D), or queries, keys and values made of it -> (B, S, H·Dh)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    row, config, device = module.litespark.row, module.config, module.litespark.device
    if device not in (None, x.device.type):
        raise ValueError(
            f"litespark.apply: got a model on {x.device.type} whose ops were chosen for {device}; expected "
            "the device that it was applied on: move the model there first, then apply"
        )
    cache = _cache(kwargs)
    # heads before positions, as transformers has them; (B, H or K, S, Dh)
    parts = _query_key_value(module, row, x, product, position_embeddings)
    query, key, value = (part.transpose(1, 2) for part in parts)
    if cache is not None:
        key, value = cache.update(key, value, module.layer_idx, kwargs)
    eager: Any = getattr(sys.modules[module.__module__], "eager_attention_forward", None)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)
    if (window := window_of(module)) is not None:
        kwargs["sliding_window"] = window
    if row.softcap is not None:
        kwargs["softcap"] = getattr(module, row.softcap)
    dropout = module.attention_dropout if module.training else 0.0
    attended, weights = attend(
        module, query, key, value, attention_mask, dropout=dropout, scaling=module.scaling, **kwargs
    )
    return attended.reshape(*x.shape[:-1], -1), weights


def _cache(kwargs: dict[str, Any]) -> Any:
    """Of keys and values; earlier versions of transformers call it otherwise."""
    cache, earlier = kwargs.pop("cache", None), kwargs.pop("past_key_values", None)
    return earlier if cache is None else cache


def _query_key_value(
    module: Any, row: Attention, x: Tensor, product: Tensor | None, position_embeddings: Any
) -> tuple[Tensor, ...]:
    """(B, S, H, Dh) and twice (B, S, K, Dh), rotated where the layer rotates; `product`: the projections of `x`."""
    rope, heads = module.litespark.ops.rope, (-1, module.head_dim)
    layers = [getattr(module, name) for name in row.inputs]
    kv = module.config.num_key_value_heads
    rotates = row.rotates_if is None or getattr(module, row.rotates_if)
    norms = row.norms if hasattr(module, "q_norm") else ""
    options = {} if row.pairs == "halves" else {"interleaved": True}
    if rotates and not norms:
        product = joined(x, layers) if product is None else product
        return rope(product.unflatten(-1, heads), *tables_of(position_embeddings, row), kv, **options)
    if product is None and len(layers) > 1:
        parts = apart(x, layers)
    else:
        product, width = layers[0](x) if product is None else product, kv * module.head_dim
        parts = product.split((product.shape[-1] - 2 * width, width, width), dim=-1)
    query, key, value = parts
    if norms == "whole":
        query, key = module.q_norm(query), module.k_norm(key)
    query, key, value = (x.unflatten(-1, heads) for x in (query, key, value))
    if norms == "heads":
        query, key = module.q_norm(query), module.k_norm(key)
    if rotates:
        tables = tables_of(position_embeddings, row)
        query, key = (rope(x, *tables, 0, **options)[0] for x in (query, key))
    return query, key, value


def tables_of(position_embeddings: tuple[Tensor, Tensor], row: Attention) -> tuple[Tensor, Tensor]:
    """cos and sin (1 or B, S, Dr) as transformers makes them, each angle twice -> each once, in fp32."""
    cos, sin = position_embeddings
    if torch.compiler.is_compiling():
        return _half(cos, row), _half(sin, row)
    if (tables := getattr(cos, "litespark", None)) is None:
        # all layers get the same tensors
        tables = cos.litespark = _half(cos, row), _half(sin, row)  # type: ignore[attr-defined]
    return tables


def _half(x: Tensor, row: Attention) -> Tensor:
    half = x[..., ::2] if row.pairs == "neighbours in tables" else x[..., : x.shape[-1] // 2]
    return half.to(torch.float32, memory_format=torch.contiguous_format).contiguous()


def _layer(module: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """(B, S, D) -> (B, S, D)."""
    row = module.litespark.row
    first, norm = (None if name is None else getattr(module, name) for name in (row.first, row.norm))
    drops = module.training and any(getattr(module, name).p for name in row.dropouts)
    if args or drops or (norm is not None and (not is_replaced(norm) or hooked(norm))):
        return type(module).replaces.forward(module, hidden_states, *args, **kwargs)
    linears = None if module.litespark.fp8 is None else _linears_in_fp8(module, norm, hidden_states)
    if linears is not None:
        attention = module.self_attn
        inputs, *others = linears
        stream, product = norm_linear(hidden_states, None, *norm_arguments(first), inputs)
        attended, _ = _between_projections(attention, hidden_states, inputs.biased(product), **kwargs)
        halves = BlockLinears(inputs, *others)
        return torch.add(*projection_mlp(stream, attended, *norm_arguments(norm), halves, recompute=False))
    hidden_states, normed = _stream_and_norm(first, hidden_states)
    attended, _ = module.self_attn(hidden_states=normed, **kwargs)
    stream, normed = _norms_and_sum(module, hidden_states, attended, row.after_attention, norm)
    return _sum_and_norm(module, stream, module.mlp(normed))


def _norms_and_sum(module: Any, stream: Tensor, update: Tensor, own: str | None, norm: Any) -> tuple[Tensor, Tensor]:
    """The stream with an update, or its `own` norm, added, and what `norm` makes of it; without one itself."""
    row, ops = module.litespark.row, module.litespark.ops
    arguments = (None, 0.0) if norm is None else norm_arguments(norm)
    if own is not None and row.multiplier is None:
        of_update = getattr(module, own)
        if is_replaced(of_update) and not hooked(of_update):
            return ops.add_rms_norm(stream, update, *arguments, norm_arguments(of_update))
    update = update if own is None else getattr(module, own)(update)
    update = update if row.multiplier is None else update * getattr(module, row.multiplier)
    if norm is None:
        added = stream + update
        return added, added
    return ops.add_rms_norm(stream, update, *arguments)


def _sum_and_norm(module: Any, stream: Tensor, update: Tensor) -> Tensor:
    """The sum of the MLP, which goes on its way with what the next block begins with: both are one op."""
    row, norm = module.litespark.row, module.litespark.following
    # where a block begins without a norm, its products read the sum
    able = row.first is None if norm is None else is_replaced(norm) and norm.litespark.fp8 is None
    ahead = able and _at_hand(module, norm, stream)
    added, normed = _norms_and_sum(module, stream, update, row.after_mlp, norm if ahead else None)
    if ahead and normed is not added:
        added.litespark_normed = norm, added._version, normed  # type: ignore[attr-defined]
    return added


def _at_hand(module: Any, norm: Any, stream: Tensor) -> bool:
    """Whether the weight of another block's norm is there now, and what it makes may be kept until it is used."""
    recomputed = module.training and getattr(module, "gradient_checkpointing", False)
    # a hook may write into the sum, which the norm keeps for its gradient
    changed = recomputed or hooked(module)
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or changed:
        return False
    if norm is None:
        return True
    weight = norm.weight
    if not is_plain(weight):
        return False
    # and not gathered for its block alone
    return weight.shape == stream.shape[-1:] and weight.device == stream.device and weight.untyped_storage().size() > 0


def link(model: nn.Module) -> None:
    """Let each replaced block make the norm of the next one, if that is replaced, and the last that of the model."""
    for part in model.modules():
        blocks: list[Any] = list(part) if isinstance(part, nn.ModuleList) else []
        if blocks and all(is_replaced(block) and isinstance(block.litespark.row, Layer) for block in blocks):
            names = [block.litespark.row.first for block in blocks[1:]]
            norms = [name and getattr(block, name) for name, block in zip(names, blocks[1:], strict=True)]
            norms.append(getattr(model.base_model, "norm", None))
            for block, norm in zip(blocks, norms, strict=True):
                block.litespark = replace(block.litespark, following=norm)


def _stream_and_norm(norm: Any | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The residual stream and its norm, of which some backends add the gradients as they make them."""
    if norm is None:
        kept = _normed_before(None, x)
        return x, x if kept is None else kept
    if is_replaced(norm) and not hooked(norm):
        if (normed := _normed_before(norm, x)) is not None:
            return x, normed
        backend = sys.modules[norm.litespark.ops.rms_norm.__module__]
        if (both := getattr(backend, "rms_norm_and_stream", None)) is not None:
            return both(x, *norm_arguments(norm))
    return x, norm(x)


def hand_over_fp8(module: Any, renewal: Renewal) -> bool:
    """Let the norms and the SwiGLU of a residual block hand over what they make in fp8, if they are such as can."""
    if not is_replaced(module) or not isinstance(module.litespark.row, Layer):
        return False
    row, attention, mlp = module.litespark.row, module.self_attn, module.mlp
    norms = [getattr(module, name) for name in (row.first, row.norm) if name is not None]
    if len(norms) < 2 or not all(map(is_replaced, (attention, mlp, *norms))):
        return False
    linears = [part.litespark.fp8.linears if part.litespark.fp8 is not None else {} for part in (attention, mlp)]
    if any(len(of_part) != 2 for of_part in linears):
        return False
    without_bias = linears[0]["output"], linears[1]["inputs"], linears[1]["output"]
    able = (
        (row.after_attention, row.after_mlp, row.multiplier, attention.litespark.row.dropout) == (None,) * 4
        and activation(getattr(mlp, mlp.litespark.row.activation)) == {}
        and all(linear.bias() is None for linear in without_bias)
    )
    if able:
        for part in (module, module.input_layernorm):
            part.litespark = replace(part.litespark, fp8=InFp8({}, renewal))
    return able


def _linears_in_fp8(module: Any, norm: Any, x: Tensor) -> list[Joined] | None:
    """The four of a block, all of which are to be in fp8 now, and nothing waits to be called on the way."""
    attention, mlp = module.self_attn, module.mlp
    places = (attention, "inputs"), (attention, "output"), (mlp, "inputs"), (mlp, "output")
    linears = [linear for part, name in places if (linear := in_fp8(part, name, x)) is not None]
    whole = len(linears) == len(places) and not any(map(hooked, (module.input_layernorm, norm, attention, mlp)))
    # as when it was decided that it can
    return linears if whole and activation(getattr(mlp, mlp.litespark.row.activation)) == {} else None


_FORWARDS: dict[type, Callable[..., Any]] = {
    Norm: _norm,
    Mlp: _mlp,
    Attention: _attention,
    Layer: _layer,
    Head: head_forward,
}
