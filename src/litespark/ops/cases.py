"""How each op is called in a training step: its inputs at given sizes, for verifications, measurements and benchmarks.

B sequences, S length, T tokens in a micro-batch (B·S), D hidden size, H query heads, K key/value heads, Dh head dim, F
intermediate size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from litespark.ops.attention.documents import Documents, document_index
from litespark.ops.rope.reference import inverse_frequencies, rope_tables
from litespark.ops.shapes import Place, StepShapes

IGNORE_INDEX = -100
EPSILON = 1e-5
_WHOLE_TILES, _WHOLE_BLOCKS = 64, 128  # of rows, and of attention


@dataclass(frozen=True)
class Case:
    """One way in which an op is used."""

    op: str  # name in `BACKENDS`
    name: str  # of the case, "attention within documents"
    # by name, fp32; those whose name begins with "fixed" are neither cast nor differentiated
    inputs: dict[str, Tensor]
    call: Callable[..., Any]  # runs a backend's function, which comes first, on the values of `inputs`
    sizes: str  # what they were cut to, in words
    # inputs that keep their dtype when the step runs under autocast: the residual stream, which is "x", and the weights
    not_autocast: tuple[str, ...] = ()
    # within which attention stays, made once, as for all layers of a forward; None: within sequences
    documents: Documents | None = None

    def dtype_of(self, name: str, place: Place) -> torch.dtype:
        """Dtype of an input in a step at `place`."""
        if not place.autocast or name not in self.not_autocast:
            return place.dtype
        return place.stream_dtype if name == "x" else torch.float32


def cases(op: str, shapes: StepShapes, device: torch.device, seed: int = 0) -> list[Case]:
    """The cases of `op` at these sizes, with random inputs on `device`.

    Attention is used within whole sequences, and where `shapes` has them within documents; the loss as a sum, as in
    training, and of single tokens, as in validation.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, device=device) * scale

    if op == "attention":
        return _attention(draw, shapes, device)
    if op == "linear_cross_entropy":
        return _losses(draw, shapes, generator)
    tokens, D, F = (shapes.sequences, shapes.length), shapes.hidden_size, shapes.intermediate_size
    extra: tuple[Any, ...] = ()
    others: list[Case] = []
    if op in ("rms_norm", "add_rms_norm"):
        names = ("x",) if op == "rms_norm" else ("x", "update")
        inputs = {name: draw(*tokens, D) for name in names} | {"weight": 1 + draw(D) / 4}
        extra, sizes = (EPSILON,), f"{D}"
        if op == "add_rms_norm":
            more = inputs | {"update_weight": 1 + draw(D) / 4}
            others = [_of_normed_update(more, f"{shapes.tokens} tokens x {sizes}")]
    elif op == "rope":
        heads, head_dim = shapes.num_heads + 2 * shapes.num_kv_heads, shapes.head_dim
        positions = torch.arange(shapes.length, device=device).unsqueeze(0)
        if shapes.documents:  # which begin anew
            positions = positions - Documents(document_index(*tokens, device)).first_keys()
        cos, sin = rope_tables(positions, inverse_frequencies(head_dim, 10000.0).to(device))
        # as the projection hands it over: a view of (B, S, (H + 2K)·Dh)
        qkv = draw(*tokens, heads * head_dim).unflatten(-1, (heads, head_dim))
        inputs = {"qkv": qkv, "fixed cos": cos, "fixed sin": sin}
        extra, sizes = (shapes.num_kv_heads,), f"{heads} heads x {head_dim}"
    else:
        inputs, sizes = {"gate_up": draw(*tokens, 2 * F)}, f"{F}"
        if op == "swiglu_linear":
            inputs["weight"] = draw(D, F, scale=F**-0.5)
            sizes = f"{F} to {D}"
    sizes = f"{shapes.tokens} tokens x {sizes}"
    case = Case(op, op, inputs, lambda function, *values: function(*values, *extra), sizes, ("x", "weight"))
    return [case, *others]


def _of_normed_update(inputs: dict[str, Tensor], sizes: str) -> Case:
    """As layers have it whose norms stand behind attention and MLP too."""

    def call(function: Callable[..., Any], x: Tensor, update: Tensor, weight: Tensor, update_weight: Tensor) -> Any:
        return function(x, update, weight, EPSILON, (update_weight, EPSILON))

    return Case(
        "add_rms_norm", "norm of the update", inputs, call, sizes, not_autocast=("x", "weight", "update_weight")
    )


def cut(op: str, shapes: StepShapes, budget_bytes: int) -> StepShapes:
    """The same widths, two sequences and two key/value heads with their groups where there are so many, and as many
    tokens as there is room for.

    `budget_bytes` bounds the activations of the fp32 reference, forward and backward, as estimated here. That bounds
    its time as well: a gibibyte holds 44 M logits or 54 M scores, which at a hidden size of 4096 or a head_dim of 128
    are about 1 TFLOP or 0.1 TFLOP. Sequences are shortened by whole tiles, so that the last one is as in the run.
    """
    sequences = min(shapes.sequences, 2)
    if op == "attention":
        group, num_kv_heads = shapes.num_heads // shapes.num_kv_heads, min(shapes.num_kv_heads, 2)
        # scores, masked scores, their softmax, and the gradients of two of them
        most = budget_bytes // (5 * 4 * group)
        length = _shortened(shapes.length, int((most / (sequences * num_kv_heads)) ** 0.5), _WHOLE_BLOCKS)
        most //= length**2
        num_kv_heads = min(shapes.num_kv_heads, max(num_kv_heads, most // sequences))
        sequences = min(shapes.sequences, max(sequences, most // num_kv_heads))
        num_heads = num_kv_heads * group
        return replace(shapes, sequences=sequences, length=length, num_kv_heads=num_kv_heads, num_heads=num_heads)
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
    length = _shortened(shapes.length, max(1, tokens // sequences), _WHOLE_TILES)
    return replace(shapes, length=length, sequences=min(shapes.sequences, max(1, tokens // length)))


def _shortened(length: int, most: int, tile: int) -> int:
    """At most `most`, by whole tiles where that leaves any."""
    shorter = length - max(0, -(-(length - most) // tile)) * tile
    return shorter if shorter > 0 else min(length, max(1, most))


def small(op: str, shapes: StepShapes) -> StepShapes:
    """Sizes that Triton's interpreter walks through in seconds: odd, with two key/value heads and heads grouped as they
    are, and where an op deals a width to blocks, with three of them.
    """
    num_kv_heads = min(shapes.num_kv_heads, 2)
    odd = shapes.length % 16 != 0  # others are compiled, and codes written, in wide words
    found = StepShapes(
        sequences=2,
        length=min(shapes.length, 37),
        hidden_size=min(shapes.hidden_size, 72),
        num_heads=min(shapes.num_heads // shapes.num_kv_heads, 3) * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=min(shapes.head_dim, 32),
        intermediate_size=min(shapes.intermediate_size, 88),
        vocab_size=min(shapes.vocab_size, 211),
        documents=shapes.documents,
    )
    wider = {
        "attention": {"length": min(shapes.length, 3 * 32 + (5 if odd else 16))},
        "rope": {key: getattr(shapes, key) for key in ("num_heads", "num_kv_heads", "head_dim")}
        | {"length": min(shapes.length, 9)},
        "swiglu": {"intermediate_size": min(shapes.intermediate_size, 2048 + 88)},
        "linear_cross_entropy": {"vocab_size": min(shapes.vocab_size, 2 * 8192 + 211)},
        "fp8": {"length": min(shapes.length, 67 if odd else 72), "hidden_size": min(shapes.hidden_size, 128 + 72)},
    }
    return replace(found, **wider.get(op.removesuffix("_linear"), {}))


def _attention(draw: Callable[..., Tensor], shapes: StepShapes, device: torch.device) -> list[Case]:
    counts = {"query": shapes.num_heads, "key": shapes.num_kv_heads, "value": shapes.num_kv_heads}
    heads = f"{shapes.num_heads} heads ({shapes.num_kv_heads} key/value)"

    def case(name: str, documents: Documents | None) -> Case:
        inputs = {name: draw(shapes.sequences, shapes.length, count, shapes.head_dim) for name, count in counts.items()}
        rest = () if documents is None else (documents,)
        sizes = f"{shapes.sequences} x {shapes.length} x {heads} x {shapes.head_dim}"
        return Case("attention", name, inputs, lambda op, *qkv: op(*qkv, *rest), sizes, documents=documents)

    cases = [case("attention", None)]
    if shapes.documents:
        index = document_index(shapes.sequences, shapes.length, device)
        # with cu_seqlens as a batch brings them: to fixed sizes, by empty documents at the end
        ends = pad(Documents(index).cu_seqlens(), (0, 2), value=index.numel())
        cases.append(case("attention within documents", Documents(index, ends)))
    return cases


def _losses(draw: Callable[..., Tensor], shapes: StepShapes, generator: torch.Generator) -> list[Case]:
    def integers(high: int) -> Tensor:
        return torch.randint(high, (shapes.sequences, shapes.length), generator=generator, device=generator.device)

    def case(name: str, call: Callable[..., Any]) -> Case:
        inputs = {
            "hidden": draw(shapes.sequences, shapes.length, shapes.hidden_size),
            "weight": draw(shapes.vocab_size, shapes.hidden_size, scale=shapes.hidden_size**-0.5),
            "fixed labels": integers(shapes.vocab_size).masked_fill(integers(8) == 0, IGNORE_INDEX),
        }
        sizes = f"{shapes.tokens} tokens x {shapes.hidden_size} to {shapes.vocab_size}"
        return Case("linear_cross_entropy", name, inputs, call, sizes, ("weight",))

    return [
        case("sum of losses", lambda op, *inputs: op(*inputs, ignore_index=IGNORE_INDEX)),
        case("losses of tokens", lambda op, *inputs: op(*inputs, ignore_index=IGNORE_INDEX, reduction="none").nats),
    ]
