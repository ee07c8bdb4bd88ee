"""A dispatch mode over fake tensors that counts what every op reads, writes, launches and multiplies.

The rules:
- A view, an allocation and a question move nothing.
- Any other op of PyTorch is one kernel. It reads each distinct part of its inputs once and writes its outputs once; one
  in place does both. A look-up reads as much as it takes, and memory that nobody has written is not read.
- Our custom ops are looked into, down to the launches of kernels, see `litespark.ops.launches`.
- A compiled graph launches what `litespark.benchmarks.traffic.inductor` finds in its schedule.
- Products and attention have FLOPs, and nothing else. Of attention the causal pairs count, and five products backward.
- What is sent to other ranks is counted by itself, see `litespark.benchmarks.traffic.collectives`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litespark.benchmarks.profile.classes import class_of, in_a_module
from litespark.benchmarks.traffic.collectives import Sent, is_communication, sent_by
from litespark.benchmarks.traffic.inductor import FusedKernel
from litespark.metrics.records.traffic import Counts
from litespark.ops.adamw import function as adamw
from litespark.ops.launches import described, intercepted

# casts of weights to what products take and of their gradients back, and sums of gradients
WEIGHTS = "weights"
# products in fp8, which have a rate of their own
FP8_PRODUCTS = "gemm_fp8"
_ALLOCATES = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
# the values of what they are made like are not read
_ONLY_LIKE = frozenset({"ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full"})
# of what they write in place they read nothing
_OVERWRITES = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_", "_foreach_copy_", "_foreach_zero_"})
# of the first input they read what the others point to
_LOOKS_UP = frozenset({"embedding", "gather", "index", "index_select", "nll_loss_forward"})
_CASTS = frozenset({"_to_copy", "copy_", "clone"})
# products -> which of their inputs is the left factor
_PRODUCTS = {"mm": 0, "bmm": 0, "_scaled_mm": 0, "addmm": 1, "baddbmm": 1}


@dataclass
class Phase:
    """A micro-batch, or what follows the last one in a step: by class, bytes kept from forward to backward, and what is
    sent to other ranks."""

    classes: defaultdict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    saved: int = 0
    sent: list[Sent] = field(default_factory=list)


class TrafficMode(TorchDispatchMode):
    """Within `counting` its `phases` grow: one for each micro-batch, up to the end of its backward, and the rest.

    `parameters` are those of the model, whose casts are a class of their own; a micro-batch has `tokens`, of which
    attention sees `pairs`.
    """

    def __init__(self, parameters: Iterable[Tensor], *, tokens: int, pairs: int) -> None:
        super().__init__()
        self.phases = [Phase()]
        self._tokens, self._pairs = tokens, pairs
        self._parameters = {_storage(parameter) for parameter in parameters}
        # storages that nobody has written; the reference keeps the address of a freed one from being another's
        self._blank: dict[int, StorageWeakRef] = {}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}  # storages of the forward pass, and their bytes
        self._labels: list[str] = []  # annotations, and ops of ours that are looked into, the outermost first
        self._of_node: dict[int, list[str]] = {}  # sequence number of a node of autograd -> labels of its forward op
        self._backward = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        """The mode, with backward passes told from forward ones and launches intercepted."""
        usual = Tensor.backward

        def backward(loss: Tensor, *arguments: Any, **options: Any) -> None:
            self.phases[-1].saved = sum(size for kept, size in self._made.values() if not kept.expired())
            self._made.clear()
            self._backward = True
            usual(loss, *arguments, **options)
            self._backward = False
            self.phases.append(Phase())

        Tensor.backward = backward  # type: ignore[method-assign, assignment]
        try:
            with mock.patch.object(adamw, "adamw_update", self._updated), intercepted(self._launched), self:
                yield
        finally:
            Tensor.backward = usual  # type: ignore[method-assign]

    def restart(self) -> None:
        """Count from here on."""
        self.phases = [Phase()]
        self._made.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes back with its parts
        name, kwargs = func._schema.name, kwargs or {}
        if is_communication(name):
            if (sent := sent_by(func, args)) is not None:
                self.phases[-1].sent.append(sent)
            return func(*args, **kwargs)
        if name.startswith("profiler::"):
            if "enter" in name:
                self._labels.append(args[0])
            else:
                self._labels.pop()
            return func(*args, **kwargs)
        if torch.is_grad_enabled() and not self._backward:
            # the node that autograd has just made for this op is the newest
            self._of_node.setdefault(torch.autograd._get_sequence_nr() - 1, self._labels[::-1])
        own = OPDEFS.get(name) if name.startswith("litespark::") else None
        if own is not None:
            self._add(name, Counts(calls=1, flops=self._flops(name, _tensors(args))))
            self._labels.append(name)
            try:
                with self:  # in place of its fake
                    return own._init_fn(*args, **kwargs)
            finally:
                self._labels.pop()
        if name in ("aten::_local_scalar_dense", "aten::equal"):
            # there are no values: Liger's loss asks for the number of labels, and whether its gradient is one
            self._add(name, Counts(calls=1))
            return self._tokens if name != "aten::equal" else True
        out = func(*args, **kwargs)
        if name != "prim::device":
            self._count(func, args, kwargs, out)
        return out

    # ---------------------------------------------------------------- ops and launches

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        op = func._schema.name.partition("::")[2]
        inputs = _tensors((args, {name: value for name, value in kwargs.items() if name != "out"}))
        mutated = _mutated(func, args, kwargs)
        shared = {_storage(tensor) for tensor in (*inputs, *mutated)}
        new = [tensor for tensor in _tensors(out) if _storage(tensor) not in shared]
        self._keep(new)
        # ops inside ours are called by no host of their own
        calls = int(not any(label.startswith("litespark::") for label in self._labels))
        if op in _ALLOCATES or not (new or mutated):
            self._blank |= {_storage(tensor): StorageWeakRef(tensor.untyped_storage()) for tensor in new}
            self._add(func._schema.name, Counts(calls=calls))
            return
        unread = {*_ids(inputs if op in _ONLY_LIKE else []), *_ids(mutated if op in _OVERWRITES else [])}
        unread |= _ids(inputs[:1]) if kwargs.get("beta") == 0 else set()
        reads = [tensor for tensor in inputs if id(tensor) not in unread and _storage(tensor) not in self._blank]
        read = _bytes(reads)
        if op in _LOOKS_UP:
            taken = max(_bytes(new), reads[1].numel() * reads[0].element_size())
            read -= max(0, _bytes(reads[:1]) - taken)
        written = [*new, *mutated]
        self._write(written)
        counts = Counts(read, _bytes(written), calls, 1, self._flops(op, inputs))
        self._add(func._schema.name, counts, reads if op in _CASTS else [])

    def _launched(self, kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launch = described(kernel, *arguments, **options)
        reads = [tensor for tensor in launch.reads if _storage(tensor) not in self._blank]
        self._write(launch.writes)
        self._add(launch.kernel, Counts(_bytes(reads), _bytes(launch.writes), launches=1), reads)

    def _updated(self, updates: Sequence[adamw.Update], *_: Any) -> None:
        """In place of the launcher of AdamW, whose kernel gets a table of addresses, from which no tensor can be told.

        It launches once for all gradients of one dtype; what cannot be read in 16 bytes is small and few.
        """
        read = [tensor for update in updates for tensor in update[:4]]
        written = [tensor for update in updates for tensor in (update.weight, *update[2:]) if tensor is not None]
        launches = len({update.gradient.dtype for update in updates})
        self._add("adamw_kernel", Counts(_bytes(read), _bytes(written), launches=launches))

    def launch_fused(self, kernels: Sequence[FusedKernel], made: Sequence[Tensor]) -> None:
        """Count what a compiled graph launches, by its names alone, and keep what it returns.

        Of the weights are copies of what a forward graph is given, and those that a backward graph returns.
        """
        self._keep(made)
        classes = self.phases[-1].classes
        for kernel in kernels:
            kernel_class = class_of(kernel.name)
            if kernel_class == "copies" and (kernel.of_outputs if self._backward else kernel.of_inputs):
                kernel_class = WEIGHTS
            flops = self._flops(kernel.name.partition("::")[2], kernel.inputs)
            classes[kernel_class] += Counts(kernel.read, kernel.written, 1, 1, flops)

    def _write(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._blank.pop(_storage(tensor), None)

    def _keep(self, made: Sequence[Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in ([] if self._backward else made)):
            self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    def _flops(self, op: str, inputs: list[Tensor]) -> int:
        if (product := op.removesuffix("_")) in _PRODUCTS:
            left, right = inputs[_PRODUCTS[product] :][:2]
            return 2 * left.numel() * right.shape[-1]
        if "attention" in op or "attn" in op:
            # two products of (query, key) pairs forward, five backward: arXiv:2307.08691
            width = inputs[0].numel() // self._tokens
            return (10 if "backward" in op else 4) * self._pairs * width
        return 0

    # ---------------------------------------------------------------- classes

    def _add(self, name: str, counts: Counts, cast: Iterable[Tensor] = ()) -> None:
        """Add what one op or kernel does to its class; `cast` is what it reads, where it may be a cast."""
        node: Any = torch._C._current_autograd_node() if self._backward else None
        labels, forward = self._labels[::-1], []
        if node is not None:
            labels.append(node.name())
            forward = self._of_node.get(node._sequence_nr(), [])
        kernel_class = class_of(name, labels, forward)
        of_weight = kernel_class == "copies" and any(_storage(tensor) in self._parameters for tensor in cast)
        if of_weight and torch.is_grad_enabled() and not self._backward:
            self._of_node[torch.autograd._get_sequence_nr() - 1].append(WEIGHTS)
        if of_weight or (cast and WEIGHTS in forward) or (node is not None and node.name().endswith("AccumulateGrad")):
            kernel_class = WEIGHTS
        elif name == "aten::_scaled_mm":
            kernel_class = FP8_PRODUCTS
        if self._backward and in_a_module(labels):
            counts = replace(counts, recomputed=counts.flops)
        self.phases[-1].classes[kernel_class] += counts


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _ids(values: Iterable[object]) -> set[int]:
    return {id(value) for value in values}


def _mutated(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an op writes in place."""
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    names = [one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write]
    if "grads" in names and given.get("grad_scale") is None:  # a fused optimizer writes them only to undo a scale
        names.remove("grads")
    return _tensors([given.get(name) for name in names])


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct parts that tensors are of their storages; what an expanded one repeats counts once."""
    parts = {(_storage(one), one.storage_offset(), one.shape, one.stride(), one.element_size()) for one in tensors}
    return sum(
        math.prod(size for size, stride in zip(shape, strides, strict=True) if stride) * width
        for _, _, shape, strides, width in parts
    )
