"""What `torch.compile` launches on an H200: Inductor's own schedule of a graph, made without a device and never run.

Dynamo, autograd and Inductor's passes run as they always do, up to the point where the scheduler would write code.
What it would write is counted: a kernel for each of its nodes, with the bytes that Inductor itself accounts for. The
graph is traced on the CPU, since PyTorch's engine has no backward pass for a GPU that is not there, and handed to
Inductor as one of a GPU. So attention is the CPU's fused op, of the same shapes as the GPU's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._python_dispatch import _disable_current_modes

from litespark.device import ACCELERATORS

_GPU = torch.device(ACCELERATORS["gpu"], 0)


class FusedKernel(NamedTuple):
    """One kernel of a schedule."""

    name: str  # "aten::mm", "triton_fused_add_mul" by the ops that it fuses
    read: int  # bytes
    written: int
    inputs: list[Tensor]  # of a library's kernel
    of_inputs: bool  # it reads nothing but inputs of the graph
    of_outputs: bool  # it writes nothing but outputs of the graph


class _Scheduled(BaseException):
    """There is a schedule, and no code need be written; no `except Exception` on the way is to hold it."""


@contextmanager
def scheduled(model: nn.Module, launched: Callable[[Sequence[FusedKernel], Sequence[Tensor]], None]) -> Iterator[Any]:
    """`model` compiled; each run of a graph tells `launched` its kernels and the new tensors that it returns."""

    def compile_graph(graph: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        with _disable_current_modes():
            kernels = _schedule(graph, inputs, options)

        def run(arguments: list[Any]) -> Any:
            modes = (one.fake_mode for one in arguments if isinstance(one, FakeTensor))
            with _disable_current_modes(), next(modes):
                outputs = graph(*arguments)
            given = {one.untyped_storage()._cdata for one in arguments if isinstance(one, Tensor)}
            tensors = [one for one in outputs if isinstance(one, Tensor)]
            launched(kernels, [one for one in tensors if one.untyped_storage()._cdata not in given])
            return outputs

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def backend(graph: fx.GraphModule, inputs: list[Any]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs, inner_compile=compile_graph)

    compiled = torch.compile(model, backend=backend)

    def forward(*arguments: Any, **options: Any) -> Any:
        with _disable_current_modes():  # Dynamo leaves code alone that runs under a mode
            return compiled(*arguments, **options)

    with _as_on_gpu():
        yield forward


@contextmanager
def _as_on_gpu() -> Iterator[None]:
    """Within it Inductor schedules for an H200, and keeps nothing of it."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import config, scheduler
    from torch._inductor.runtime.hints import DeviceProperties

    # NVIDIA H200; CUDA C++ programming guide, "Technical Specifications per Compute Capability"
    h200 = DeviceProperties(_GPU.type, 0, 132, 90, 9, 65536, 2048, 1024, 32)
    torch._dynamo.reset()
    try:
        with (
            warnings.catch_warnings(),
            mock.patch.object(DeviceProperties, "create", return_value=h200),
            mock.patch.object(scheduler, "has_triton", return_value=True),
            mock.patch.object(CudaInterface, "is_bf16_supported", return_value=True),
            config.patch(force_disable_caches=True),
        ):
            warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
            yield
    finally:
        torch._dynamo.reset()


def _schedule(graph: fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> list[FusedKernel]:
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.scheduler import Scheduler

    kernels: list[FusedKernel] = []

    def stop(scheduler: Any) -> None:
        kernels.extend(_kernels(scheduler))
        raise _Scheduled

    moved, tensors = _on_gpu(graph, inputs)
    try:
        with mock.patch.object(Scheduler, "codegen", stop):
            compile_fx_inner(moved, tensors, **options)
    except _Scheduled:
        pass
    return kernels


def _on_gpu(graph: fx.GraphModule, inputs: Sequence[Any]) -> tuple[fx.GraphModule, list[Any]]:
    """A copy of a graph that was traced on the CPU, and of its inputs, on the GPU."""
    mode = next(one.fake_mode for one in inputs if isinstance(one, FakeTensor))

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device):
            return _GPU
        if not isinstance(value, FakeTensor):
            return value
        with mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_GPU)

    graph = copy.deepcopy(graph)
    for node in graph.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), moved)
    graph.recompile()
    tensors = [moved(value) for value in inputs]
    FakeTensorProp(graph, mode=mode).propagate_dont_convert_inputs(*tensors)
    return graph, tensors


def _kernels(scheduler: Any) -> Iterator[FusedKernel]:
    """A kernel for each node but those that only name a part of another's output, or make nothing."""
    from torch._inductor import config, ir
    from torch._inductor.scheduler import NopKernelSchedulerNode
    from torch._inductor.utils import get_fused_kernel_name
    from torch._inductor.virtualized import V

    given, returned = set(V.graph.graph_inputs), set(V.graph.get_output_names())
    for node in scheduler.nodes:
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
            continue
        name, inputs = f"triton_{get_fused_kernel_name(node.get_nodes(), config.triton.descriptive_names)}", []
        if node.is_extern() and (origin := _origin(node.node)) is not None:
            name, inputs = origin.target._schema.name, _values((*origin.args, *origin.kwargs.values()))
        reads, writes = ({one.name for one in kind} for kind in (node.read_writes.reads, node.read_writes.writes))
        read, written = node.get_read_buffer_sizes(), node.get_write_buffer_sizes()
        yield FusedKernel(name, read, written, inputs, reads <= given, writes <= returned)


def _origin(kernel: Any) -> Any:
    """The op of the graph that a library's kernel is; None where it is none, but part of how another is computed."""
    if (origin := kernel.get_origin_node()) is None:  # of an op with more than one output
        origin = next(
            (node for node in kernel.get_origins() if node.target is getattr(kernel, "op_overload", None)), None
        )
    return origin if origin is not None and isinstance(origin.target, torch._ops.OpOverload) else None


def _values(arguments: Iterable[Any]) -> list[Tensor]:
    return [one.meta["val"] for one in arguments if isinstance(one, fx.Node) and isinstance(one.meta["val"], Tensor)]
