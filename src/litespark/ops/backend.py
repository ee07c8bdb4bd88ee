"""Which implementation each op uses: to add a backend, add its line to `BACKENDS`.

A backend's module is imported only when it is asked for, so that `import litespark.ops` needs neither Triton nor a GPU.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from litespark.config.settings import Switch, settings
from litespark.ops.fp8.reference import Pieces
from litespark.ops.linear_cross_entropy.reference import TokenLosses
from litespark.ops.shapes import Place, StepShapes

REFERENCE = "reference"
AUTO = "auto"


@dataclass(frozen=True)
class Backend:
    """Where a backend is."""

    function: str  # "module:function", with the signature of the op's reference
    # "module:function" of (device, dtype, shapes or None) that returns why the backend cannot run there, or None
    # where it can. None: it runs everywhere
    why_not: str | None = None
    # "module:function" of (place) that says what the backend is made of there, for the record; None: nothing
    detail: str | None = None
    # "module:function" of (place) that names the structural cases that it has there, see `litespark.ops.structure`;
    # None: none are known
    structure: str | None = None
    softcap: bool = False  # of attention: whether it takes a `softcap`
    branches: bool = False  # of attention: whether it takes documents with branches


_TRITON = "litespark.ops.triton_support:why_not"
_CPU = "litespark.ops.on_cpu:why_not"
_NORM = "litespark.ops.rms_norm.limits:why_not"
_LOSS = "litespark.ops.linear_cross_entropy"
_FP8 = "litespark.ops.fp8"
_NORM_CASES = "litespark.ops.rms_norm.kernels:structure"
_ROPE_CASES = "litespark.ops.rope.kernels:structure"
_SWIGLU_CASES = "litespark.ops.swiglu.kernels:structure"
_ATTENTION = "litespark.ops.attention"
_ATTENTION_CASES = f"{_ATTENTION}.structure:structure"
_LOSS_CASES, _CHUNK_CASES = f"{_LOSS}.kernels:structure", f"{_LOSS}.chunked:structure"

# the backends of each op, those expected to be fastest first: the order in which `auto` takes them where it cannot
# measure
BACKENDS: dict[str, dict[str, Backend]] = {
    "rms_norm": {
        "triton": Backend("litespark.ops.rms_norm.function:rms_norm", _NORM, structure=_NORM_CASES),
        "cpu": Backend("litespark.ops.rms_norm.on_cpu:rms_norm", _CPU),
        "torch": Backend("litespark.ops.rms_norm.torch_native:rms_norm_torch"),
        REFERENCE: Backend("litespark.ops.rms_norm.reference:rms_norm"),
    },
    "add_rms_norm": {
        "triton": Backend("litespark.ops.rms_norm.function:add_rms_norm", _NORM, structure=_NORM_CASES),
        "cpu": Backend("litespark.ops.rms_norm.on_cpu:add_rms_norm", _CPU),
        "torch": Backend("litespark.ops.rms_norm.torch_native:add_rms_norm_torch"),
        REFERENCE: Backend("litespark.ops.rms_norm.reference:add_rms_norm"),
    },
    "rope": {
        "triton": Backend("litespark.ops.rope.function:rope_qkv_triton", _TRITON, structure=_ROPE_CASES),
        "cpu": Backend("litespark.ops.rope.on_cpu:rope_qkv", _CPU),
        REFERENCE: Backend("litespark.ops.rope.reference:rope_qkv"),
    },
    "swiglu": {
        "triton": Backend("litespark.ops.swiglu.function:swiglu", _TRITON, structure=_SWIGLU_CASES),
        "cpu": Backend("litespark.ops.swiglu.on_cpu:swiglu", _CPU),
        REFERENCE: Backend("litespark.ops.swiglu.reference:swiglu"),
    },
    "swiglu_linear": {
        "triton": Backend("litespark.ops.swiglu.function:swiglu_linear", _TRITON, structure=_SWIGLU_CASES),
        REFERENCE: Backend("litespark.ops.swiglu.reference:swiglu_linear"),
    },
    "attention": {
        "varlen": Backend(
            f"{_ATTENTION}.varlen:attention_varlen", f"{_ATTENTION}.varlen:why_not", structure=_ATTENTION_CASES
        ),
        "flex": Backend(
            f"{_ATTENTION}.flex:attention_flex",
            f"{_ATTENTION}.flex:why_not",
            structure=_ATTENTION_CASES,
            softcap=True,
            branches=True,
        ),
        "triton": Backend(
            f"{_ATTENTION}.function:attention_triton",
            f"{_ATTENTION}.configurations:why_not",
            detail=f"{_ATTENTION}.configurations:blocks",
            structure=f"{_ATTENTION}.structure:structure_triton",
            softcap=True,
        ),
        # the same kernels with other blocks
        "triton_2": Backend(
            f"{_ATTENTION}.function:attention_triton_2",
            f"{_ATTENTION}.configurations:why_not_2",
            detail=f"{_ATTENTION}.configurations:blocks_2",
            structure=f"{_ATTENTION}.structure:structure_triton_2",
            softcap=True,
        ),
        "cpu": Backend(
            f"{_ATTENTION}.on_cpu:attention_cpu",
            f"{_ATTENTION}.on_cpu:why_not",
            structure=_ATTENTION_CASES,
            branches=True,
        ),
        "sdpa": Backend(
            f"{_ATTENTION}.sdpa:attention_sdpa",
            detail=f"{_ATTENTION}.sdpa:named_kernel",
            structure=_ATTENTION_CASES,
            branches=True,
        ),
        REFERENCE: Backend(f"{_ATTENTION}.reference:attention", softcap=True, branches=True),
    },
    "linear_cross_entropy": {
        "triton": Backend(f"{_LOSS}.function:linear_cross_entropy_triton", _TRITON, structure=_LOSS_CASES),
        "triton_recompute": Backend(
            f"{_LOSS}.function:linear_cross_entropy_triton_recompute", _TRITON, structure=_LOSS_CASES
        ),
        "cpu": Backend(f"{_LOSS}.on_cpu:linear_cross_entropy_cpu", _CPU, structure=f"{_LOSS}.on_cpu:structure"),
        "chunked": Backend(f"{_LOSS}.chunked:linear_cross_entropy_chunked", structure=_CHUNK_CASES),
        "chunked_recompute": Backend(f"{_LOSS}.chunked:linear_cross_entropy_chunked_recompute", structure=_CHUNK_CASES),
        REFERENCE: Backend(f"{_LOSS}.reference:linear_cross_entropy"),
    },
    # not one function but the pieces that blocks in fp8 are put together from
    "fp8": {
        "triton": Backend(f"{_FP8}.fused:PIECES", f"{_FP8}.limits:why_not", structure=f"{_FP8}.fused:structure"),
        # with every cast a pass of its own, which by counts is slower: `auto` measures both
        "triton_apart": Backend(
            f"{_FP8}.fused:PIECES_APART", f"{_FP8}.limits:why_not", structure=f"{_FP8}.fused:structure"
        ),
        REFERENCE: Backend("litespark.ops.fp8.reference:PIECES"),
    },
}

# what the halves of a block do: with the first three, one of the others
_JOINED = ("rms_norm", "add_rms_norm", "rope", "swiglu", "swiglu_linear")


@dataclass(frozen=True)
class Ops:
    """One callable per op: what `models.llama.model` computes with. Each is specified by its `reference.py`."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]]
    rope: Callable[..., tuple[Tensor, Tensor, Tensor]]
    swiglu: Callable[..., Tensor]
    swiglu_linear: Callable[..., Tensor]
    attention: Callable[..., Tensor]
    linear_cross_entropy: Callable[..., Tensor | TokenLosses]
    fp8: Pieces

    @cached_property
    def halves(self) -> dict[str, Any]:
        """The MLP's op -> `litespark.ops.linear.halves`, if that op, the norms and the rotation are Triton's."""
        triton = {op for op in _JOINED if _is(getattr(self, op), BACKENDS[op]["triton"].function)}
        if not triton >= {*_JOINED[:3]}:
            return {}
        return dict.fromkeys(triton - {*_JOINED[:3]}, importlib.import_module("litespark.ops.linear.halves"))


@settings("ops")
class OpsConfig:
    """The backend of each op, by name, and what holds for all of them.

    A name is one of `BACKENDS`, or `auto`: the fastest that can run here and passes its verification.
    """

    rms_norm: str = REFERENCE
    """RMSNorm."""
    add_rms_norm: str = REFERENCE
    """A residual addition with the RMSNorm behind it."""
    rope: str = REFERENCE
    """Rotary embedding of queries and keys."""
    swiglu: str = REFERENCE
    """SiLU of the gate times the values."""
    swiglu_linear: str = REFERENCE
    """SwiGLU with the down projection behind it, used with recompute=swiglu."""
    attention: str = REFERENCE
    """Causal attention within documents."""
    linear_cross_entropy: str = REFERENCE
    """The head and the loss."""
    fp8: str = REFERENCE
    """The pieces that blocks in fp8 are put together from; with precision=fp8 only."""
    compile: Literal["none", "auto", "block", "model"] = "none"
    """What `torch.compile` gets to see: nothing, each block by itself, or the whole model. `auto` compiles the blocks
    of a long run on a CPU where that pays, which it measures; one line of the log says so."""
    cuda_graph: Switch = False
    """Record a step as CUDA graphs and replay it: one launch for each part of a step instead of one a kernel. On one
    NVIDIA GPU, in fp32 or bf16; memory of the activations stays reserved."""
    on_failed_verification: Literal["stop", "fallback"] = "stop"
    """A fast op asked for by name that differs from its reference stops the run, or is replaced by the reference;
    `auto` takes the next one in any case."""

    @field_validator(*BACKENDS)
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        known = BACKENDS[str(info.field_name)]
        if name not in (*known, AUTO):
            expected = f"one of those known for {info.field_name}: {', '.join(known)}, or {AUTO}"
            raise PydanticCustomError("backend", "{expected}", {"expected": expected})
        return name

    def backends(self) -> dict[str, str]:
        """op -> the name asked for."""
        return {op: getattr(self, op) for op in BACKENDS}


def resolve(config: OpsConfig) -> Ops:
    """Look up every backend that `config` names; none is `auto`, which `litespark.ops.choice` decides first."""
    return Ops(**{op: load(op, name) for op, name in config.backends().items()})


def names_of(ops: Ops) -> dict[str, str]:
    """op -> the name of its backend, for `resolve`d ops."""

    def is_at(function: Any, place: str) -> bool:
        module, name = place.split(":")
        return module in sys.modules and getattr(sys.modules[module], name, None) is function

    return {
        op: next(name for name, backend in backends.items() if is_at(getattr(ops, op), backend.function))
        for op, backends in BACKENDS.items()
        if op != "fp8"
    }


def load(op: str, backend: str) -> Any:
    """The function of one backend, of `fp8` its `Pieces`; ValueError where it cannot be imported here."""
    try:
        return _at(BACKENDS[op][backend].function)
    except ImportError as error:
        raise ValueError(
            f"ops.{op}={backend} cannot be used here: {error}. Install what is missing, or choose another of: "
            f"{', '.join(BACKENDS[op])}"
        ) from error


def why_not(
    op: str, backend: str, device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None
) -> str | None:
    """Why a backend cannot run there, in words that follow "because"; None where it can."""
    entry = BACKENDS[op][backend]
    try:
        if entry.why_not is not None and (reason := _at(entry.why_not)(device, dtype, shapes)) is not None:
            return reason
        _at(entry.function)
    except ImportError as error:
        return str(error)
    return None


def detail(op: str, backend: str, place: Place) -> str | None:
    """What a backend is made of at `place`, in a few words; None where there is nothing to say."""
    detail = BACKENDS[op][backend].detail
    return None if detail is None else _at(detail)(place)


def structure(op: str, backend: str, place: Place) -> set[str]:
    """The structural cases that a backend has at `place`, by name; none where none are known."""
    structure = BACKENDS[op][backend].structure
    return set() if structure is None else _at(structure)(place)


def _at(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def _is(function: Any, place: str) -> bool:
    """Whether `function` is the one at `place`, which is not imported for the question."""
    return function.__module__ == place.partition(":")[0] and function is _at(place)
