"""What the backends named `cpu` share: passes over memory in C++ (on_cpu.cpp), compiled once for this processor.

PyTorch's own operations read and write memory once each, and a CPU is bound by that; `torch.compile` fuses them and
takes a minute. This takes seconds the first time, and then the library lies in the user's cache folder. Its threads are
those of PyTorch, which loads the same OpenMP.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litespark.atomic import written_whole
from litespark.device import device_of
from litespark.ops.custom_op import traced
from litespark.ops.precision import dtype_name
from litespark.ops.shapes import StepShapes

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why a backend named `cpu` is not for that device; None where it is."""
    if device_of(device).is_accelerator:
        return f"it is for CPUs, not for {device.type}"
    if dtype not in _DTYPES:
        return f"it takes fp32 and bf16, not {dtype_name(dtype)}"
    library = _library()
    return library if isinstance(library, str) else None


def takes(*tensors: Tensor | None) -> bool:
    """Whether the library computes with these: PyTorch does with other dtypes, and where it traces."""
    there = [x for x in tensors if x is not None]
    if traced(*there) or isinstance(_library(), str):
        return False
    return all(x.dtype in _DTYPES and not device_of(x.device).is_accelerator for x in there)


def run(name: str, *arguments: Any) -> None:
    """Call a function of on_cpu.cpp; a tensor stands for its address and its dtype, None for none of both."""
    words: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Tensor) or argument is None:
            words += (None, 0) if argument is None else (argument.data_ptr(), _DTYPES[argument.dtype])
        else:
            words.append(argument)
    getattr(_library(), name)(*words)


def transposed_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """aᵀ (N, T) · b (T, K) in `dtype`, rounded to that of the factors before.

    Units for bf16 take twice as long where the first factor is transposed, so the narrower one is written transposed.
    """
    # with an odd T oneDNN reads a value beyond the end of a row
    if a.dtype != torch.bfloat16 or a.shape[0] % 2 or not takes(a, b):
        return torch.mm(a.t(), b).to(dtype)
    if b.shape[1] < a.shape[1]:
        return _transposed(torch.mm(_transposed(b, b.dtype), a), dtype)
    return torch.mm(_transposed(a, a.dtype), b).to(dtype)


def _transposed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in bf16, with two dimensions, in bf16 or fp32."""
    x, y = x.contiguous(), x.new_empty(x.shape[::-1], dtype=dtype)
    run("transposed", *x.shape, x.data_ptr(), y)
    return y


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The compiled functions, or why there are none."""
    try:
        return _declared(_loaded(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        return f"on_cpu.cpp cannot be compiled here: {told.strip().splitlines()[-1]}"


def _loaded(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))
    except OSError:  # damaged, as by a full disk
        file.unlink()
        return ctypes.CDLL(str(_compiled()))


def _compiled() -> Path:
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        raise OSError("no C++ compiler is found; install g++, or name one in CXX")
    key = hashlib.sha256(repr((_SOURCE.read_bytes(), _FLAGS, compiler, _processor())).encode()).hexdigest()
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litespark" / f"on_cpu-{key[:16]}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as partial:
            command = [*shlex.split(compiler), *_FLAGS, str(_SOURCE), "-o", str(partial)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return file


def _processor() -> str:
    """What instructions it has: a home folder may be on machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """With the types of arguments: ctypes would pass whole numbers in 32 bits."""
    number, real, pointer = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    tensor, strides = (pointer, number), ctypes.POINTER(number)
    for name, types in {
        "add_rms_norm": (number, number, real, *tensor * 2, pointer, *tensor * 2, pointer),
        "rms_norm_backward": (number, number, *tensor * 3, pointer, pointer, *tensor * 2, pointer, number),
        "swiglu": (number, number, *tensor, pointer, number),
        "swiglu_backward": (number, number, *tensor, pointer, pointer, number),
        "rope": (*(number,) * 5, *tensor, strides, pointer, strides, pointer, pointer, number, real, number),
        "losses_and_gradients": (number, number, number, *tensor, pointer, number, real, pointer),
        "softmax": (number, number, *tensor, real, number, number, pointer, number, number),
        "softmax_backward": (number, number, *tensor, pointer, real),
        "transposed": (number, number, pointer, *tensor),
    }.items():
        getattr(library, name).argtypes = types
        getattr(library, name).restype = None
    return library
