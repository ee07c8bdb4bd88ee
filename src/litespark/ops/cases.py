"""How each op is called in a training step: its inputs at given sizes, for verifications, measurements and benchmarks.

B rows, S length, T tokens in a micro-batch (B·S), D hidden size, H query heads, K key/value heads, Dh head dim, F
intermediate size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from litespark.ops.attention.documents import Documents
from litespark.ops.rope.reference import inverse_frequencies, rope_tables
from litespark.ops.shapes import StepShapes

IGNORE_INDEX = -100
EPSILON = 1e-5
_WHOLE_TILES = 64


@dataclass(frozen=True)
class Case:
    """One way in which an op is used."""

    op: str  # name in `BACKENDS`
    name: str  # of the case, "attention within documents"
    # by name, fp32; those whose name begins with "fixed" are neither cast nor differentiated
    inputs: dict[str, Tensor]
    call: Callable[..., Tensor | tuple[Tensor, ...]]  # runs a backend's function on the values of `inputs`
    # inputs that are fp32 also when the step runs under autocast: the residual stream and the weights
    stay_fp32: frozenset[str]
    sizes: str  # what they were cut to, in words
    # within which attention stays, made once, as for all layers of a forward; None: within rows
    documents: Documents | None = None


def cases(op: str, shapes: StepShapes, device: torch.device, seed: int = 0) -> list[Case]:
    """The cases of `op` at these sizes, with random inputs on `device`.

    Attention has one case within whole rows, and one within documents where `shapes` has them; the loss has one for its
    sum, as in training, and one for single tokens, as in validation.
    """
    return _MAKERS[op](_Draw(device, seed), shapes)


def cut(op: str, shapes: StepShapes, budget_bytes: int) -> StepShapes:
    """The same widths with fewer rows, heads and, where that is not enough, tokens.

    `budget_bytes` bounds the activations of the fp32 reference, forward and backward, as estimated here; weights are
    not counted, since widths are not cut.
    """
    if op == "attention":
        group = shapes.num_heads // shapes.num_kv_heads
        # scores, masked scores, their softmax, and the gradients of two of them
        most = budget_bytes // (5 * 4)
        length = min(shapes.length, max(1, int((most / group) ** 0.5)))
        groups = max(1, most // (group * length**2))
        num_kv_heads = min(shapes.num_kv_heads, groups)
        rows = min(shapes.rows, max(1, groups // num_kv_heads))
        return replace(shapes, rows=rows, length=length, num_kv_heads=num_kv_heads, num_heads=num_kv_heads * group)
    values_per_token = {
        "rms_norm": 8 * shapes.hidden_size,
        "add_rms_norm": 10 * shapes.hidden_size,
        "rope": 8 * (shapes.num_heads + 2 * shapes.num_kv_heads) * shapes.head_dim,
        "swiglu": 12 * shapes.intermediate_size,
        "swiglu_linear": 12 * shapes.intermediate_size + 4 * shapes.hidden_size,
        "linear_cross_entropy": 6 * shapes.vocab_size + 4 * shapes.hidden_size,
        # and what it takes to compare codes
        "fp8": 50 * max(shapes.intermediate_size, shapes.hidden_size),
    }[op]
    tokens = max(1, budget_bytes // (4 * values_per_token))
    if op == "fp8" and tokens > _WHOLE_TILES:
        tokens -= tokens % _WHOLE_TILES  # as those of most runs: other sizes are compiled anew
    length = min(shapes.length, tokens)
    return replace(shapes, length=length, rows=min(shapes.rows, max(1, tokens // length)))


def small(shapes: StepShapes) -> StepShapes:
    """Sizes that Triton's interpreter walks through in seconds: odd, and with heads grouped as they are."""
    group = shapes.num_heads // shapes.num_kv_heads
    return StepShapes(
        rows=2,
        length=min(shapes.length, 37),
        hidden_size=min(shapes.hidden_size, 72),
        num_heads=min(group, 4),
        num_kv_heads=1,
        head_dim=min(shapes.head_dim, 32),
        intermediate_size=min(shapes.intermediate_size, 88),
        vocab_size=min(shapes.vocab_size, 211),
        documents=shapes.documents,
    )


class _Draw:
    """Random inputs, the same for the same device and seed."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device) * scale

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def _rms_norm(draw: _Draw, shapes: StepShapes) -> list[Case]:
    inputs = {
        "x": draw.normal(shapes.rows, shapes.length, shapes.hidden_size),
        "weight": 1 + draw.normal(shapes.hidden_size) / 4,
    }
    return [
        Case("rms_norm", "rms_norm", inputs, lambda op, x, weight: op(x, weight, EPSILON),
             frozenset({"x", "weight"}), f"{_tokens(shapes)} x {shapes.hidden_size}")
    ]  # fmt: skip


def _add_rms_norm(draw: _Draw, shapes: StepShapes) -> list[Case]:
    size = (shapes.rows, shapes.length, shapes.hidden_size)
    inputs = {"x": draw.normal(*size), "update": draw.normal(*size), "weight": 1 + draw.normal(shapes.hidden_size) / 4}
    return [
        Case("add_rms_norm", "add_rms_norm", inputs, lambda op, x, update, weight: op(x, update, weight, EPSILON),
             frozenset({"x", "weight"}), f"{_tokens(shapes)} x {shapes.hidden_size}")
    ]  # fmt: skip


def _rope(draw: _Draw, shapes: StepShapes) -> list[Case]:
    heads = shapes.num_heads + 2 * shapes.num_kv_heads
    positions = torch.arange(shapes.length, device=draw.device).unsqueeze(0)
    frequencies = inverse_frequencies(shapes.head_dim, 10000.0).to(draw.device)
    cos, sin = rope_tables(positions, frequencies)
    # as the projection hands it over: a view of (B, S, (H + 2K)·Dh)
    qkv = draw.normal(shapes.rows, shapes.length, heads * shapes.head_dim).unflatten(-1, (heads, shapes.head_dim))
    inputs = {"qkv": qkv, "fixed cos": cos, "fixed sin": sin}
    num_kv_heads = shapes.num_kv_heads
    return [
        Case("rope", "rope", inputs, lambda op, qkv, cos, sin: op(qkv, cos, sin, num_kv_heads), frozenset(),
             f"{_tokens(shapes)} x {heads} heads x {shapes.head_dim}")
    ]  # fmt: skip


def _swiglu(draw: _Draw, shapes: StepShapes) -> list[Case]:
    inputs = {"gate_up": draw.normal(shapes.rows, shapes.length, 2 * shapes.intermediate_size)}
    sizes = f"{_tokens(shapes)} x {shapes.intermediate_size}"
    return [Case("swiglu", "swiglu", inputs, lambda op, gate_up: op(gate_up), frozenset(), sizes)]


def _swiglu_linear(draw: _Draw, shapes: StepShapes) -> list[Case]:
    inputs = {
        "gate_up": draw.normal(shapes.rows, shapes.length, 2 * shapes.intermediate_size),
        "weight": draw.normal(shapes.hidden_size, shapes.intermediate_size, scale=shapes.intermediate_size**-0.5),
    }
    return [
        Case("swiglu_linear", "swiglu_linear", inputs, lambda op, gate_up, weight: op(gate_up, weight),
             frozenset({"weight"}), f"{_tokens(shapes)} x {shapes.intermediate_size} to {shapes.hidden_size}")
    ]  # fmt: skip


def _attention(draw: _Draw, shapes: StepShapes) -> list[Case]:
    def inputs() -> dict[str, Tensor]:
        heads = {"query": shapes.num_heads, "key": shapes.num_kv_heads, "value": shapes.num_kv_heads}
        return {name: draw.normal(shapes.rows, shapes.length, count, shapes.head_dim) for name, count in heads.items()}

    count = f"{shapes.num_heads} heads ({shapes.num_kv_heads} key/value)"
    sizes = f"{shapes.rows} x {shapes.length} x {count} x {shapes.head_dim}"

    def whole(op: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return op(query, key, value)

    found = [Case("attention", "attention", inputs(), whole, frozenset(), sizes)]
    if shapes.documents:
        index = document_index(shapes.rows, shapes.length, max(4, shapes.length // 4), draw.device)
        # with boundaries, as a batch brings them
        documents = Documents(index, Documents(index).cu_seqlens())

        def within(op: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return op(query, key, value, documents)

        found.append(Case("attention", "attention within documents", inputs(), within, frozenset(), sizes, documents))
    return found


def document_index(rows: int, length: int, mean_length: int, device: torch.device, seed: int = 0) -> Tensor:
    """(rows, length) int32 on `device`: the document of each token, of uneven lengths with that mean."""
    generator = torch.Generator().manual_seed(seed)
    opens = torch.rand(rows, length, generator=generator) < 1 / mean_length
    opens[:, 0] = False
    return opens.cumsum(dim=1).to(torch.int32).to(device)


def _linear_cross_entropy(draw: _Draw, shapes: StepShapes) -> list[Case]:
    def inputs() -> dict[str, Tensor]:
        labels = draw.integers(shapes.vocab_size, shapes.rows, shapes.length)
        labels[draw.integers(8, shapes.rows, shapes.length) == 0] = IGNORE_INDEX
        return {
            "hidden": draw.normal(shapes.rows, shapes.length, shapes.hidden_size),
            "weight": draw.normal(shapes.vocab_size, shapes.hidden_size, scale=shapes.hidden_size**-0.5),
            "fixed labels": labels,
        }

    def total(op: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return op(hidden, weight, labels, ignore_index=IGNORE_INDEX)

    def single(op: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return op(hidden, weight, labels, ignore_index=IGNORE_INDEX, reduction="none").nats

    sizes = f"{_tokens(shapes)} x {shapes.hidden_size} to {shapes.vocab_size}"
    stay = frozenset({"weight"})
    return [
        Case("linear_cross_entropy", "sum of losses", inputs(), total, stay, sizes),
        Case("linear_cross_entropy", "losses of tokens", inputs(), single, stay, sizes),
    ]


def _tokens(shapes: StepShapes) -> str:
    return f"{shapes.rows * shapes.length} tokens"


_MAKERS: dict[str, Callable[[_Draw, StepShapes], list[Case]]] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "swiglu_linear": _swiglu_linear,
    "attention": _attention,
    "linear_cross_entropy": _linear_cross_entropy,
}
