"""What a compiled kernel takes, read from the binary or assembly that the compiler made.

Triton itself tells registers only after it has loaded a kernel onto a device.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes."""

    registers: int | None  # per thread; on AMD both kinds of vector registers together. None where it is not told
    # local (AMD: scratch) memory per thread, where spilled registers go. None where it is not told
    stack_bytes: int | None
    shared_bytes: int  # per program
    tensor_memory_columns: int = 0  # per program; 0 where a target has no tensor memory


def cuda_registers_and_stack(binary: bytes, cuobjdump: Path) -> tuple[int | None, int | None]:
    """Of a cubin, by NVIDIA's tool, which Triton's package brings."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    # a line for the kernel and one for each of its functions that is not inlined
    return _most(r"REG:(\d+)", text), _most(r"STACK:(\d+)", text)


def amd_registers_and_stack(assembly: str) -> tuple[int | None, int | None]:
    """Of assembly, from its metadata: LLVM, "User Guide for AMDGPU Backend", code object metadata.

    `.vgpr_count` is the sum of both kinds of vector registers on GPUs such as gfx942 that have them in one file.
    """
    return _most(r"\.vgpr_count:\s*(\d+)", assembly), _most(r"\.private_segment_fixed_size:\s*(\d+)", assembly)


def _most(pattern: str, text: str) -> int | None:
    return max(map(int, re.findall(pattern, text)), default=None)
