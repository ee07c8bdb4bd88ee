"""Annotations in a model's forward pass that say what is being computed, so that plain kernels can be told apart."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.profiler import record_function

from litespark.benchmarks.profile.classes import OP_CLASSES, scope, within
from litespark.models.llama.model import MLP, Attention, Block, Llama, Rotary
from litespark.ops.backend import BACKENDS, REFERENCE, Ops
from litespark.ops.fp8.reference import Pieces
from litespark.training import step

# op of `BACKENDS` -> class
_OPS = {op: OP_CLASSES[known[REFERENCE].function.split(".")[2]] for op, known in BACKENDS.items() if op != "fp8"}
# method of the pieces of blocks in fp8 -> class; a fused one is of the op that it casts for
_PIECES = {
    "cast": "copies",
    "add_rms_norm": "norm",
    "add_rms_norm_backward": "norm",
    "swiglu": "activation",
    "swiglu_backward": "activation",
    "turn": "copies",
}
# a block adds to the residual stream, which belongs to the norm that follows it
_OUR_MODULES = {Rotary: scope("rope"), Attention: within("attention"), MLP: within("activation"), Block: within("norm")}
# by the end of the class's name, as Liger's replacements have the same
_THEIR_MODULES = {
    "RMSNorm": scope("norm"),
    "RotaryEmbedding": scope("rope"),
    "Attention": within("attention"),
    "MLP": within("activation"),
    "DecoderLayer": within("norm"),
}
_THEIR_FUNCTIONS = {"apply_rotary_pos_emb": scope("rope"), "eager_attention_forward": scope("attention")}


@contextmanager
def annotated(model: nn.Module) -> Iterator[None]:
    """Within it the model's ops and the clipping of gradients are annotated; afterwards all is as it was.

    For models that run as they are written: `torch.compile` would compile them anew.
    """
    with _Replacements() as replace:
        replace.annotate(step, "finish_gradients", scope("optimizer"))
        replace.annotate(nn.utils, "clip_grad_norm_", scope("optimizer"))
        if isinstance(model, Llama):
            _annotate_ours(model, replace)
        else:
            _annotate_theirs(model, replace)
        yield


def _annotate_ours(model: Llama, replace: _Replacements) -> None:
    functions: Any = {op: _wrapped(getattr(model.ops, op), scope(_OPS[op])) for op in _OPS}
    ops = dataclasses.replace(model.ops, fp8=annotated_pieces(model.ops.fp8), **functions)
    for module in model.modules():
        if isinstance(getattr(module, "ops", None), Ops):
            replace.set(module, "ops", ops)
        if type(module) in _OUR_MODULES:
            replace.annotate(module, "forward", _OUR_MODULES[type(module)])
    if model.fp8 is not None:
        replace.annotate(model.fp8, "finish_step", scope("optimizer"))
        for linear in (part for block in model.fp8.blocks.values() for part in block):
            replace.set(linear, "pieces", annotated_pieces(linear.pieces))
            # with what a product has beside itself: scales of rows, and all that simulates it
            replace.annotate(linear, "product", scope("gemm"))


def annotated_pieces(pieces: Pieces) -> Pieces:
    """The same pieces, each under an annotation, also where one calls another."""
    mine = copy.copy(pieces)
    for name, kernel_class in _PIECES.items():
        setattr(mine, name, _wrapped(getattr(mine, name), scope(kernel_class)))
    return mine


def _annotate_theirs(model: Any, replace: _Replacements) -> None:
    for module in model.modules():
        name = next((end for end in _THEIR_MODULES if type(module).__name__.endswith(end)), None)
        if name is not None:
            replace.annotate(module, "forward", _THEIR_MODULES[name])
    source = importlib.import_module(type(model).__module__)  # each family has its own functions
    for function, annotation in _THEIR_FUNCTIONS.items():
        if hasattr(source, function):
            replace.annotate(source, function, annotation)
    replace.annotate(model, "loss_function", scope("loss"))


def _wrapped(function: Callable[..., Any], annotation: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        with record_function(annotation):
            return function(*arguments, **settings)

    return call


class _Replacements(ExitStack):
    """Attributes that are other ones for a while."""

    def annotate(self, owner: Any, name: str, annotation: str) -> None:
        self.set(owner, name, _wrapped(getattr(owner, name), annotation))

    def set(self, owner: Any, name: str, value: Any) -> None:
        if isinstance(getattr(type(owner), name, None), property) or name in vars(owner):
            self.callback(setattr, owner, name, getattr(owner, name))
        else:
            self.callback(delattr, owner, name)
        setattr(owner, name, value)
