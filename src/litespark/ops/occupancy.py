"""How many programs of a kernel a multiprocessor holds at once, and what its instructions leave of the memory's rate.

Both are bounds of an H200, counted and not measured.
"""

from litespark.ops.compilation import Resources
from litespark.ops.instructions import Code

BOUND_TARGET = "sm_90"
# of copies that stream; what the data sheet states is 4.8
BYTES_A_SECOND = 3.8e12
# under load, below the boost of 1.98 GHz
CLOCK = 1.755e9
_MULTIPROCESSORS = 132
# threads of which one instruction is issued in a cycle: one warp of each of four schedulers
_THREADS_A_CYCLE = 4 * 32
# CUDA C++ programming guide, "Technical Specifications per Compute Capability", 9.0
_WARPS, _PROGRAMS, _REGISTERS, _SHARED_BYTES = 64, 32, 65536, 228 * 1024
_RESERVED_BYTES = 1024  # of shared memory, for each program
_REGISTER_STEP = 8  # registers of a thread are given out by this many


def programs_at_once(needs: Resources, num_warps: int) -> int:
    """How many programs one multiprocessor holds; 0 where one does not fit."""
    registers = -(-max(1, needs.registers or 0) // _REGISTER_STEP) * _REGISTER_STEP
    by_registers = _REGISTERS // (registers * 32 * num_warps)
    by_memory = _SHARED_BYTES // (needs.shared_bytes + _RESERVED_BYTES)
    return min(_PROGRAMS, _WARPS // num_warps, by_registers, by_memory)


def memory_share(code: Code) -> float | None:
    """The share of the rate of memory that a kernel reaches by its instructions, at most 1; None without bytes."""
    if code.a_byte is None:
        return None
    issued = _MULTIPROCESSORS * _THREADS_A_CYCLE * CLOCK
    return min(1.0, issued / code.a_byte / BYTES_A_SECOND)
