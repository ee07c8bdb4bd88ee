"""Are kernels launched as their `compilations` say? Records launches instead of making them, with CPU tensors.

`python -m tests.ops.recorded_launches` runs the fast backends of all ops forward and backward at the widths of a 3B
Llama, in bf16, under autocast and in fp32. For each op it prints how many launches there were, and one line for each
that no compilation for sm_90 (the target of a CPU) stands for. Triton's own code says what it would specialise a launch
for. A process of its own, since the kernels of the tests are interpreted. What the ops return is memory as it was
found.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from litespark.ops.backend import BACKENDS, load
from litespark.ops.cases import Case, cases
from litespark.ops.compilation import ops_with_kernels
from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.proof_pieces import kinds_of, pieces_to_prove
from litespark.ops.shapes import StepShapes
from litespark.ops.triton_support import TARGETS, Compilation, Specialisation, specialisation

TARGET = TARGETS["sm_90"]
# of a 3B Llama, but for what no kernel sees and the number of tokens
SHAPES = {"rows": 1, "num_heads": 24, "num_kv_heads": 8, "head_dim": 128, "documents": True}
SIZES = {"length": 128, "hidden_size": 64, "intermediate_size": 8192, "vocab_size": 32000}
PIECE_SIZES = {"length": 64, "hidden_size": 3072, "intermediate_size": 8192, "vocab_size": 64}
CPU = torch.device("cpu")
# dtype of activations, over an fp32 stream and fp32 weights
MODES = ((torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, False))
NORM_SIZES = {"length": 2040, "hidden_size": 3072, "intermediate_size": 64, "vocab_size": 64}


def recorded(run: Callable[[], Any]) -> list[tuple[Any, Specialisation]]:
    """(kernel, what Triton would have compiled) of all launches in `run`."""
    launches = []
    backend = make_backend(GPUTarget(TARGET.backend, TARGET.architecture, TARGET.warp_size))

    def record(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, special, left = binder(*args, **options)
        # Triton has one type of truth values and two names for it
        types = {name: kind.replace("u1", "i1") for name, (kind, _) in zip(bound, special, strict=True)}
        constants = {name: bound[name] for name, kind in types.items() if kind == "constexpr"}
        attributes = {
            name: backend.parse_attr(letters)
            for name, (kind, letters) in zip(bound, special, strict=True)
            if kind != "constexpr" and letters
        }
        stated = {name: left[name] for name in ("num_warps", "num_stages") if name in left}
        found = Specialisation(types, constants, {k: v for k, v in attributes.items() if v}, {"num_warps": 4} | stated)
        launches.append((kernel, found))

    before = JITFunction.run
    JITFunction.run = record
    try:
        run()
    finally:
        JITFunction.run = before
    return launches


def differences(launched: Specialisation, stated: Specialisation) -> list[str]:
    """Argument by argument, what was launched and what was stated."""
    found = []
    for what in ("types", "constants", "attributes", "options"):
        one, other = getattr(launched, what), getattr(stated, what)
        for name in [*one, *(name for name in other if name not in one)]:
            if one.get(name, "-") != other.get(name, "-"):
                found.append(f"{name} {one.get(name, '-')} and not {other.get(name, '-')}")
    return found


def unstated(launches: list[tuple[Any, Specialisation]], stated: list[Compilation]) -> Iterator[str]:
    """One line for each launch that no compilation stands for, with the nearest that does not."""
    said = set()
    for kernel, launched in launches:
        near = [
            (differences(launched, specialisation(compilation, TARGET)), compilation.name)
            for compilation in stated
            if compilation.kernel is kernel
        ]
        different, name = min(near, key=lambda pair: len(pair[0]), default=(["nothing is stated of it"], "-"))
        line = f"{kernel.__name__} is launched unlike {name}: {', '.join(different)}"
        if different and line not in said:
            said.add(line)
            yield line


def run(case: Case, function: Callable[..., Any], dtype: torch.dtype, autocast: bool) -> None:
    """Forward and backward, with inputs as a step has them."""
    inputs = []
    for name, value in case.inputs.items():
        if name.startswith("fixed"):
            inputs.append(value)
            continue
        stays = dtype == torch.float32 or (autocast and name in case.stay_fp32)
        inputs.append(value.to(torch.float32 if stays else dtype).requires_grad_())
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        output = case.call(function, *inputs)
    outputs = [output] if isinstance(output, Tensor) else list(output)
    torch.autograd.backward([sum((one.float().sum() for one in outputs), torch.zeros(()))])


def fast_backends(op: str) -> Iterator[tuple[str, str]]:
    """(op of the registry, backend) of the functions that launch kernels of the folder `op`."""
    for name, backends in BACKENDS.items():
        for backend, place in backends.items():
            if place.function.startswith(f"litespark.ops.{op}.") and place.why_not and "triton" in backend:
                yield name, backend


@functools.cache
def launches_of_pieces() -> list[tuple[Any, Specialisation]]:
    """Those of the fused pieces of fp8, in all ways that a step may ask for, with kernels of whatever folder."""
    pieces = load("fp8", "triton")
    # scales and largest values are one place in a row of places, wherever it lies
    shapes = StepShapes(**SHAPES, **PIECE_SIZES)
    places = torch.zeros(2, dtype=torch.int32), torch.ones(2)
    found = []
    for dtype, autocast in MODES:
        for piece in pieces_to_prove(shapes, CPU, dtype, autocast=autocast, gradients=(E5M2, E4M3)):
            for kind in kinds_of(None):
                for way in piece.ways(kind, kinds_of(None)):
                    emission, again = (
                        None
                        if each is None
                        else replace(each, scale=each.scale if each.scale is None else places[1][1])
                        for each in (way.noting(CPU), way.again)
                    )
                    if emission.amax is not None:
                        emission = replace(emission, amax=places[0][1])
                    inputs = {name: x for name, x in piece.inputs.items() if name != way.without}
                    found += recorded(partial(piece.call, pieces, inputs, emission, again, dtype))
    return found


def launches_of(op: str) -> list[tuple[Any, Specialisation]]:
    """Those of all fast backends whose kernels are in the folder `op`."""
    if op.endswith("fp8"):
        return [made for made in launches_of_pieces() if made[0].__module__ == f"litespark.ops.{op}.kernels"]
    found = []
    shapes = StepShapes(**SHAPES, **(NORM_SIZES if op == "rms_norm" else SIZES))
    for name, backend in fast_backends(op):
        for case in cases(name, shapes, torch.device("cpu")):
            for dtype, autocast in MODES:
                if case.name == "attention" and dtype == torch.float32:
                    continue  # stated within documents only, which takes no less
                with configured_for_the_target(op, dtype):
                    found += recorded(partial(run, case, load(name, backend), dtype, autocast))
    return found


def configured_for_the_target(op: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Attention has configurations for the interpreter, which it would take for CPU tensors."""
    if op != "attention":
        return nullcontext()
    from litespark.ops.attention.configurations import candidates, configured

    return configured(candidates(TARGET, SHAPES["head_dim"], dtype)[0])


def main() -> None:
    for op, module in ops_with_kernels().items():
        launches = launches_of(op)
        print(f"{op}: {len(launches)} launches", flush=True)
        for line in unstated(launches, importlib.import_module(module).compilations(TARGET)):
            print(f"{op}: {line}", flush=True)


if __name__ == "__main__":
    main()
