"""Our attention behind transformers' AttentionInterface, each backend as `litespark_BACKEND`.

Masks stay out of memory: packed sequences and padding are documents, a sliding window is a number. Whatever else a mask
may say is left to transformers' own attention.

B batch, S queries, T keys, H query heads, K key/value heads, Dh head dim.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from litespark.models.huggingface.flattened import documents_of
from litespark.ops.attention.documents import Documents, causal_visible
from litespark.ops.backend import load

log = logging.getLogger(__name__)
# documents that are known beside the positions, from which transformers would derive them once a mask, on the host
_PACKED: ContextVar[Documents | None] = ContextVar("packed", default=None)
PREFIX = "litespark_"
_noted: dict[nn.Module, str | None] | None = None


@dataclass(frozen=True)
class Visible:
    """What queries see, beside later keys, which they never do."""

    documents: Documents | None = None
    window: int | None = None
    # a mask that is made already, to transformers: `generate` with a cache of a fixed size hands it to the model
    ndim: ClassVar[int] = 4

    def mask(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """(1 or B, 1, S, T) bool."""
        causal = causal_visible(queries, keys, device, self.window)[None, None]
        return causal if self.documents is None else causal & self.documents.visible()


@contextmanager
def packed(documents: Documents) -> Iterator[None]:
    """Within it our attention keeps to these, for a model that is given a mask of ones (B, S)."""
    token = _PACKED.set(documents)
    try:
        yield
    finally:
        _PACKED.reset(token)


def register(backend: str) -> str:
    """Make a backend of our attention known to transformers; the name that it has there."""
    from transformers import AttentionInterface, AttentionMaskInterface

    # a name with "sdpa" in it transformers takes for its own, and refuses it to models for which it has none
    name = f"{PREFIX}{backend}".replace("sdpa", "scaled_dot_product")
    AttentionInterface.register(name, partial(_forward, load("attention", backend), backend))
    AttentionMaskInterface.register(name, _mask)
    return name


@contextmanager
def noting() -> Iterator[dict[nn.Module, str | None]]:
    """Which modules ask for our attention within, and why it is left to that of transformers, or None."""
    global _noted
    noted: dict[nn.Module, str | None] = {}
    _noted = noted
    try:
        yield noted
    finally:
        _noted = None


def _forward(
    op: Callable[..., Tensor],
    backend: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B, H, S, Dh) and twice (B, K, T, Dh) -> (B, S, H, Dh), and no weights."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if kwargs.get("s_aux") is not None:
        raise ValueError(
            f"{type(module).__name__} has attention sinks, which our attention has not; leave it to the reference"
        )
    seen = attention_mask if isinstance(attention_mask, Visible) else Visible(window=kwargs.get("sliding_window"))
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    masked = isinstance(attention_mask, Tensor)
    sizes = query.shape[0], query.shape[2], key.shape[2]
    if (documents := documents_of(kwargs, *sizes, seen.documents, query.device)) is not seen.documents:
        seen = replace(seen, documents=documents)
        if masked and documents is not None:
            low = False if attention_mask.dtype == torch.bool else torch.finfo(attention_mask.dtype).min
            attention_mask = attention_mask.masked_fill(~documents.visible(), low)
    reason = None
    if key.shape != value.shape:
        reason = "its keys and values have different sizes"
    elif not causal or kwargs.get("position_bias") is not None:
        reason = "it is not causal, or has a bias of positions"
    if _noted is not None:
        _noted[module] = "it drops weights while it trains" if getattr(module, "attention_dropout", 0) else reason
    if reason is not None or masked or dropout:
        if not masked:
            # causal attention of PyTorch lets the first query see one key, however many there were before
            alike = not causal or query.shape[2] in (1, key.shape[2])
            plain = alike and seen.documents is None and seen.window is None
            attention_mask = None if plain else seen.mask(query.shape[2], key.shape[2], query.device)
        kwargs |= {"dropout": dropout, "scaling": scaling}
        attend = sdpa_attention_forward
        if kwargs.get("softcap") is not None:  # which PyTorch's has not
            attend = getattr(sys.modules[type(module).__module__], "eager_attention_forward")  # noqa: B009
            attention_mask = _additive(
                seen.mask(query.shape[2], key.shape[2], query.device), attention_mask, query.dtype
            )
        return attend(module, query, key, value, attention_mask, **kwargs)
    natural = query.shape[-1] ** -0.5
    options: dict[str, Any] = {} if scaling in (None, natural) else {"scale": scaling}
    if kwargs.get("softcap") is not None:
        options["softcap"] = kwargs["softcap"]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return op(query, key, value, seen.documents, seen.window, **options), None


def _additive(causal: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A mask that is added to scores, of one that says what is seen, or of `causal`."""
    if mask is None:
        mask = causal
    return (
        mask
        if mask.is_floating_point()
        else torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    )


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | Visible | None = None,
    **kwargs: Any,
) -> Any:
    """What `_forward` gets as its mask: `Visible`, or (B, 1, S, T) bool where that does not say it."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    if isinstance(attention_mask, Visible):
        return attention_mask
    seen = _seen(causal_mask_function if mask_function is None else mask_function)
    # the last query stands at the last key, which it does not in a cache of a fixed size
    last = isinstance(q_offset, int) and q_offset + q_length == kv_offset + kv_length
    if seen is not None and last:
        if (documents := _PACKED.get()) is not None:
            return Visible(documents, seen.window)
        if attention_mask is None or (not torch.compiler.is_compiling() and bool(attention_mask.all())):
            return seen
        if q_length == kv_length == attention_mask.shape[-1] and seen.documents is None and _one_run(attention_mask):
            # padding sees padding, and nobody else does
            return Visible(Documents(attention_mask.to(torch.int32)), seen.window)
    return sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        **{**kwargs, "allow_is_causal_skip": False},
    )  # fmt: skip


def _one_run(attention_mask: Tensor) -> bool:
    """Whether the tokens of each sequence stand side by side; what lies between padding would see over it."""
    if torch.compiler.is_compiling():
        return False
    kept = attention_mask.to(torch.int8)
    opens = (kept.diff(dim=1) > 0).sum(1) + kept[:, 0]
    return bool((opens <= 1).all())


def _seen(mask_function: Any) -> Visible | None:
    """What a mask of transformers is made of; None: of something else than windows and packed sequences."""
    name, parts = getattr(mask_function, "__qualname__", ""), _nonlocals(mask_function)
    if name == "causal_mask_function":
        return Visible()
    if name == "sliding_window_overlay.<locals>.inner_mask":
        return Visible(window=parts["sliding_window"])
    if name == "packed_sequence_mask_function.<locals>.inner_mask":
        return Visible(Documents(parts["packed_sequence_mask"]))
    if name == "remap_positions_for_packed_sequence.<locals>.inner_mask":
        return _seen(parts["mask_function"])
    if name == "and_masks.<locals>.and_mask":
        seen = list(map(_seen, parts["mask_functions"]))
        if any(part is None for part in seen):
            return None
        documents = [part.documents for part in seen if part is not None and part.documents is not None]
        windows = [part.window for part in seen if part is not None and part.window is not None]
        if len(documents) <= 1:
            return Visible(documents[0] if documents else None, min(windows, default=None))
    return None


def _nonlocals(function: Any) -> dict[str, Any]:
    """What `inspect.getclosurevars` says of them, in a way that torch.compile can trace."""
    names: tuple[str, ...] = getattr(getattr(function, "__code__", None), "co_freevars", ())
    return {name: cell.cell_contents for name, cell in zip(names, function.__closure__, strict=True)} if names else {}
