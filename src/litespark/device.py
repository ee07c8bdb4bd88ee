"""All that is asked of a device, in one place, over `torch.accelerator`: `device_of(torch.device)` answers.

What a device does not have is None or False, and the caller leaves that figure out. So a run needs nothing but what
PyTorch trains with. Devices are told apart here, and where kernels are made and launched.
"""

import ctypes
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

# words of `trainer.accelerator` and what PyTorch calls them; `auto` is whatever accelerator there is, or the CPU
ACCELERATORS = {"gpu": "cuda", "mps": "mps", "xpu": "xpu"}
NVIDIA_AND_AMD = ("cuda", "rocm")  # as the library `kernels` tells them apart
# PyTorch calls both of them "cuda"
_IN_FULL = {"gpu": "an NVIDIA or AMD GPU", "mps": "an Apple GPU (Metal)", "xpu": "an Intel GPU"}
_CYCLES_PER_SECOND = 2e9
# numbers of mallopt(3), and the size from which on a block is mapped by itself, and given back, all the same
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_KEPT_BYTES = 2**30
# how CUDA, cuBLAS, ROCm and Metal say it where PyTorch's allocator did not
_OUT_OF_MEMORY = re.compile(r"(CUDA|HIP|MPS)( error:| backend)? out of memory|CUBLAS_STATUS_ALLOC_FAILED")


T = TypeVar("T")


class NoDeviceError(ValueError):
    """The accelerator that was asked for is not on this machine."""


class Graphs:
    """CUDA graphs of what a device is given; all of them share memory, so results that nobody holds are lost."""

    def __init__(self, place: torch.device) -> None:
        self._stream = torch.cuda.Stream(place)
        self._pool = torch.cuda.graph_pool_handle()

    def rehearse(self, work: Callable[[], object]) -> None:
        """Do `work` where it is recorded later: nothing may then be loaded or made for the first time."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            work()
        here.wait_stream(self._stream)

    def record(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """What `work` returns, without values yet: only the call beside it does the work, each time into the same."""
        graph = torch.cuda.CUDAGraph()
        # other threads, which read ahead, may use the device meanwhile
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            result = work()
        return result, graph.replay


class Device:
    """The processor of the host, and what the accelerators below differ from."""

    is_accelerator = False  # it computes while the host goes on, and has memory of its own
    has_timer = True  # `mark` waits for nothing
    has_graphs = False  # what it is given can be recorded and done again
    sum_dtype = torch.float64  # the widest type that it adds in
    multiplies_fp32_fastest = False  # of all types that we train in, whatever the sizes

    def __init__(self, place: torch.device) -> None:
        self.torch = place

    @property
    def type(self) -> str:
        return self.torch.type

    @property
    def name(self) -> str:
        return cpu_name()

    @property
    def is_nvidia_or_amd(self) -> bool:
        """CUDA, or ROCm, which PyTorch calls "cuda" too: what Triton and PyTorch have most kernels for."""
        return self.type == "cuda"

    @property
    def is_nvidia(self) -> bool:
        return self.is_nvidia_or_amd and torch.version.hip is None

    @property
    def capability(self) -> tuple[int, int] | None:
        """The compute capability of an NVIDIA device, (9, 0) for Hopper; None elsewhere."""
        return torch.cuda.get_device_capability(self.torch) if self.is_nvidia else None

    @property
    def has_bf16(self) -> bool:
        return True

    @property
    def uuid(self) -> str | None:
        """Of the physical device, in NVML's spelling ("GPU-…"), where the driver reports it."""
        return None

    @property
    def memory_bytes(self) -> int | None:
        """Of the whole device, or what this host allows; None where it cannot be read."""
        return host_memory_bytes()

    def autocast(self, dtype: torch.dtype | None, *, cached: bool | None = None) -> torch.autocast:
        """Products in `dtype`, or with None in that of their operands; `cached`: of a weight one cast is kept."""
        return torch.autocast(self.type, dtype, enabled=dtype is not None, cache_enabled=cached)

    def use(self) -> None:
        """Make it the current one of this process."""

    def synchronise(self) -> None:
        """Wait until it has done what it was given."""
        if self.is_accelerator:
            torch.accelerator.synchronize(self.torch)

    def keep_freed_memory(self) -> None:
        """Let later tensors of this process have the memory that freed ones had.

        Left alone, glibc gives blocks of many MB back to the system, which clears each page again at its next use: a
        seventh to a fifth of a training step. Other allocators decide for themselves.
        """
        if not self.is_accelerator and platform.libc_ver()[0] == "glibc":
            allocator = ctypes.CDLL(None)
            allocator.mallopt(_TRIM_THRESHOLD, -1)  # never
            allocator.mallopt(_MMAP_THRESHOLD, _MOST_KEPT_BYTES)

    def empty_cache(self) -> None:
        """Give memory back that nothing holds any more."""
        if self.is_accelerator:
            torch.accelerator.empty_cache()

    def allocated_bytes(self) -> int | None:
        """Held by tensors now; None where it is not counted."""
        return None

    def peak_bytes(self) -> int | None:
        """The most that tensors held since `reset_peak`; None where it is not counted."""
        return None

    def reset_peak(self) -> None:
        """Begin the count of `peak_bytes` anew."""

    def random_state(self) -> Tensor | None:
        """Of its own generator; None where the host's is its."""
        return None

    def set_random_state(self, state: Tensor) -> None:
        """Set what `random_state` returned."""

    @contextmanager
    def random_state_kept(self) -> Iterator[None]:
        """Afterwards its generator and the host's stand where they stood."""
        host, own = torch.get_rng_state(), self.random_state()
        try:
            yield
        finally:
            torch.set_rng_state(host)
            if own is not None:
                self.set_random_state(own)

    def mark(self) -> Any:
        """A moment in its work, behind all that it was given so far."""
        return time.perf_counter()

    def milliseconds(self, first: Any, last: Any) -> float:
        """Between two marks; synchronise before."""
        return 1e3 * (last - first)

    def graphs(self) -> Graphs:
        """What records work, where it `has_graphs`."""
        raise ValueError(f"got a device of type {self.type}, expected one with graphs; set ops.cuda_graph=false")

    def occupy(self, seconds: float) -> None:
        """Keep it busy for about so long, so that the host can queue work behind; not where there is no way to."""


class Accelerator(Device):
    """Answers of `torch.accelerator`, or of the module of the device's type."""

    is_accelerator = True

    @property
    def _module(self) -> Any:
        return torch.get_device_module(self.torch)

    @property
    def name(self) -> str:
        return str(self._module.get_device_name(self.torch))

    @property
    def has_bf16(self) -> bool:
        return bool(self._module.is_bf16_supported(including_emulation=False))

    @property
    def uuid(self) -> str | None:
        uuid = getattr(self._module.get_device_properties(self.torch), "uuid", None)
        if uuid is None:
            return None
        return str(uuid) if str(uuid).startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"

    @property
    def memory_bytes(self) -> int | None:
        return int(self._module.get_device_properties(self.torch).total_memory)

    def use(self) -> None:
        torch.accelerator.set_device_index(self.torch)

    def allocated_bytes(self) -> int | None:
        return torch.accelerator.memory_allocated(self.torch)

    def peak_bytes(self) -> int | None:
        return torch.accelerator.max_memory_allocated(self.torch)

    def reset_peak(self) -> None:
        torch.accelerator.reset_peak_memory_stats(self.torch)

    def random_state(self) -> Tensor | None:
        return self._module.get_rng_state(self.torch)

    def set_random_state(self, state: Tensor) -> None:
        self._module.set_rng_state(state.cpu(), self.torch)

    @property
    def has_graphs(self) -> bool:  # type: ignore[override]
        return self.is_nvidia

    def graphs(self) -> Graphs:
        return Graphs(self.torch) if self.has_graphs else super().graphs()

    def mark(self) -> Any:
        event = torch.Event(self.torch, enable_timing=True)
        event.record()
        return event

    def milliseconds(self, first: Any, last: Any) -> float:
        return float(first.elapsed_time(last))

    def occupy(self, seconds: float) -> None:
        if self.is_nvidia_or_amd:
            torch.cuda._sleep(int(seconds * _CYCLES_PER_SECOND))


class Mps(Device):
    """Apple's GPUs: one, without PyTorch's memory counters, generators by device, timed events or double precision."""

    is_accelerator = True
    has_timer = False
    sum_dtype = torch.float32
    multiplies_fp32_fastest = True

    @property
    def name(self) -> str:
        return f"GPU of {cpu_name()}"

    @property
    def memory_bytes(self) -> int | None:
        return torch.mps.recommended_max_memory()

    def allocated_bytes(self) -> int | None:
        return torch.mps.current_allocated_memory()

    def random_state(self) -> Tensor | None:
        return torch.mps.get_rng_state()

    def set_random_state(self, state: Tensor) -> None:
        torch.mps.set_rng_state(state.cpu())

    def mark(self) -> Any:
        self.synchronise()
        return super().mark()


_KINDS: dict[str, type[Device]] = {"cpu": Device, "mps": Mps}


def device_of(place: torch.device) -> Device:
    """What answers for a device of PyTorch."""
    return _KINDS.get(place.type, Accelerator)(place)


@contextmanager
def standing_in(kind: type[Device]) -> Iterator[None]:
    """Within it a `kind` answers for the CPU: code does what it would do elsewhere, on tensors without memory."""
    usual, _KINDS["cpu"] = _KINDS["cpu"], kind
    try:
        yield
    finally:
        _KINDS["cpu"] = usual


def find(asked: str, index: int | None = None) -> torch.device:
    """The device that `trainer.accelerator` (auto, cpu, gpu, mps, xpu) means here, the current one or of an index; a
    NoDeviceError where it is not here, or there are fewer.
    """
    here = torch.accelerator.current_accelerator(check_available=True)
    if asked == "cpu" or (asked == "auto" and here is None):
        return torch.device("cpu")
    if here is None or (asked != "auto" and here.type != ACCELERATORS[asked]):
        other = "no accelerator" if here is None else f"only {here.type}"
        raise NoDeviceError(
            f"trainer.accelerator={asked}: got no {asked} on this machine (PyTorch finds {other}), expected "
            f"{_IN_FULL[asked]}"
        )
    if index is not None and index >= device_count():
        raise NoDeviceError(f"got {device_count()} devices of type {here.type}, expected at least {index + 1}")
    return torch.device(here.type, torch.accelerator.current_device_index() if index is None else index)


def device_count() -> int:
    """Accelerators of this machine that this process may use."""
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name; the architecture where the system reports no more."""
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass  # no /proc outside of Linux
    return platform.processor() or platform.machine() or "unknown"


def host_memory_bytes() -> int | None:
    """What this host, or its cgroup, allows; None where the system does not report it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(limit)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def out_of_memory(error: BaseException | None) -> str | None:
    """The first line of the error that says that a device's memory is full, if that is what `error` comes from."""
    while error is not None:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(text):
            return (text.splitlines() or ["out of memory"])[0]
        error = error.__cause__ or error.__context__
    return None
