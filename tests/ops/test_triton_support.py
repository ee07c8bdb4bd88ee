"""Where kernels can run, which target a device has, and that interpreted kernels are not compiled."""

import subprocess
import sys

import pytest
import torch

from litespark.ops import compilation
from litespark.ops.triton_support import (
    TARGETS,
    interpreting,
    target_at_hand,
    target_of,
    why_not,
)

pytest.importorskip("triton")
from tests.ops.toy_kernels import sound

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def capability(monkeypatch):
    """Sets the compute capability of the only CUDA device."""
    target_at_hand.cache_clear()
    monkeypatch.setattr(torch.version, "hip", None)

    def set_capability(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))

    yield set_capability
    target_at_hand.cache_clear()


# ---------------------------------------------------------------- can it run


@pytest.mark.parametrize(("value", "switched_on"), [("1", True), ("ON", True), ("y", True), ("0", False), ("", False)])
def test_the_interpreter_runs_kernels_on_cpu_tensors_where_triton_reads_its_switch_so(monkeypatch, value, switched_on):
    import triton

    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert interpreting() is bool(triton.knobs.runtime.interpret) is switched_on
    reason = why_not(CPU, torch.float32)
    assert reason is None if switched_on else "no kernels for CPUs" in reason


def test_where_kernels_cannot_run_the_reason_is_told(capability, monkeypatch):
    assert "not torch.float64" in why_not(CUDA, torch.float64)
    assert "no kernels for mps devices" in why_not(torch.device("mps"), torch.float32)
    capability(7, 5)
    assert "need compute capability 8.0" in why_not(CUDA, torch.bfloat16)
    capability(8, 0)
    assert why_not(CUDA, torch.bfloat16) is None
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "Triton is not installed" in why_not(CUDA, torch.bfloat16)


def test_the_interpreter_is_enabled_before_triton_is_imported_and_not_after():
    code = (
        "import os; os.environ.pop('TRITON_INTERPRET', None)\n"
        "from litespark.ops.triton_support import enable_interpreter, interpreting\n"
        "enable_interpreter(); assert interpreting()\n"
        "import triton; print(type(triton.jit(enable_interpreter)).__name__)\n"
        "os.environ.pop('TRITON_INTERPRET'); enable_interpreter()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout.strip() == "InterpretedFunction"
    assert "Triton is imported already; set TRITON_INTERPRET=1 before" in ended.stderr


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "device, target",
    [
        ((9, 0), "sm_90"),
        # not in the table: the one of its generation with the least shared memory
        ((8, 7), "sm_86"),
        ((10, 3), "sm_100"),
        # of a generation that nobody knows: what fits everywhere
        ((13, 0), "sm_86"),
    ],
)
def test_a_gpu_gets_configurations_that_fit_it(capability, monkeypatch, device, target):
    capability(*device)
    assert target_of(CUDA).name == target
    monkeypatch.setattr(torch.version, "hip", "7.0")
    target_at_hand.cache_clear()
    assert target_of(CUDA).name == "gfx942"


# ---------------------------------------------------------------- compiling


def test_interpreted_kernels_are_not_compiled(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    target = TARGETS["sm_90"]
    with pytest.raises(RuntimeError, match="compile without TRITON_INTERPRET"):
        compilation.recorded_launches(sound.launches(target), target)


AMDGCN = """
    .agpr_count:     128
    .private_segment_fixed_size: 24
    .sgpr_count:     37
    .vgpr_count:     340
    .vgpr_spill_count: 6
"""


def test_spilled_registers_on_amd_are_told():
    assert compilation._amd_needs(AMDGCN) == (340, 24)
    assert compilation._amd_needs("") == (None, None)
