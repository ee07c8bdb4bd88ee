"""Which implementation each op uses.

The registry maps op -> backend -> "module:function". A backend's module is imported only when it is asked for, so that
`import litespark.ops` needs neither Triton nor a GPU. To add a backend, add its line to `BACKENDS`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor

from litespark.ops.attention.documents import Documents
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses

BACKENDS: dict[str, dict[str, str]] = {
    "rms_norm": {"reference": "litespark.ops.rms_norm.reference:rms_norm"},
    "rope": {"reference": "litespark.ops.rope.reference:rope"},
    "swiglu": {"reference": "litespark.ops.swiglu.reference:swiglu"},
    "attention": {
        "reference": "litespark.ops.attention.reference:attention",
        "sdpa": "litespark.ops.attention.function:attention_sdpa",
    },
    "linear_cross_entropy": {"reference": "litespark.ops.linear_cross_entropy.reference:linear_cross_entropy"},
}


class Attention(Protocol):
    """Signature of an attention backend; shapes in `litespark.ops.attention.reference`."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None) -> Tensor: ...


class LinearCrossEntropy(Protocol):
    """Signature of a loss backend; shapes in `litespark.ops.linear_cross_entropy.reference`."""

    def __call__(
        self, hidden: Tensor, weight: Tensor, labels: Tensor, *, ignore_index: int = -100, reduction: Reduction = "sum"
    ) -> Tensor | TokenLosses: ...


@dataclass(frozen=True)
class Ops:
    """One callable per op: what `models.llama` computes with. Each is specified by its `reference.py`."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rope: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    swiglu: Callable[[Tensor], Tensor]
    attention: Attention
    linear_cross_entropy: LinearCrossEntropy


@dataclass(frozen=True)
class OpsConfig:
    """The backend of each op, by name."""

    rms_norm: str = "reference"
    rope: str = "reference"
    swiglu: str = "reference"
    attention: str = "reference"
    linear_cross_entropy: str = "reference"


def resolve(config: OpsConfig) -> Ops:
    """Look up every backend that `config` names.

    Raises:
        ValueError: a backend is unknown, or its module cannot be imported on this machine; the message names the op,
            the backend asked for, the backends that are known, and the reason.
    """
    return Ops(**{field.name: _load(field.name, getattr(config, field.name)) for field in fields(config)})


def _load(op: str, backend: str) -> Callable:
    known = BACKENDS[op]
    if backend not in known:
        raise ValueError(
            f"ops.{op}={backend}: no backend of that name; choose one of those known for {op}: "
            f"{', '.join(sorted(known))}"
        )
    module, function = known[backend].split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise ValueError(
            f"ops.{op}={backend} cannot be used here: {error}. Install what is missing, or choose another of: "
            f"{', '.join(sorted(known))}"
        ) from error
