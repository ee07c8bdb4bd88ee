"""Where kernels can run, which target a device has, and that interpreted kernels are not compiled."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litespark.ops import resources
from litespark.ops.triton_support import (
    TARGETS,
    enable_interpreter,
    interpreting,
    recorded_launches,
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


@pytest.mark.parametrize("value", ["1", "true", "ON", "yes"])
def test_the_interpreter_runs_kernels_on_cpu_tensors(monkeypatch, value):
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert interpreting()
    assert why_not(CPU, torch.float32) is None


@pytest.mark.parametrize("value", ["", "0", "false", "off"])
def test_without_the_interpreter_a_cpu_has_no_kernels(monkeypatch, value):
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert not interpreting()
    assert "no kernels for CPUs" in why_not(CPU, torch.float32)


def test_triton_reads_its_switch_as_we_do(monkeypatch):
    import triton

    for value in ("1", "true", "ON", "y", "0", "false", "off", ""):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        assert bool(triton.knobs.runtime.interpret) == interpreting(), value


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float8_e4m3fn])
def test_other_dtypes_have_no_kernels(dtype):
    assert f"not {dtype}" in why_not(CUDA, dtype)


def test_other_devices_have_no_kernels():
    assert "no kernels for mps devices" in why_not(torch.device("mps"), torch.float32)


def test_an_old_gpu_has_no_kernels(capability):
    capability(7, 5)
    assert "need compute capability 8.0" in why_not(CUDA, torch.bfloat16)
    capability(8, 0)
    assert why_not(CUDA, torch.bfloat16) is None


def test_without_triton_the_reason_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "Triton is not installed" in why_not(CUDA, torch.bfloat16)


def test_the_interpreter_is_not_enabled_after_triton_was_imported(monkeypatch):
    import triton  # noqa: F401

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="imported already; set TRITON_INTERPRET=1 before"):
        enable_interpreter()


def test_the_interpreter_is_enabled_before_triton_is_imported():
    code = (
        "import os; os.environ.pop('TRITON_INTERPRET', None)\n"
        "from litespark.ops.triton_support import enable_interpreter, interpreting\n"
        "enable_interpreter(); assert interpreting()\n"
        "import triton; print(type(triton.jit(enable_interpreter)).__name__)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == "InterpretedFunction"


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize(
    "name, shared", [("sm_80", 163), ("sm_86", 99), ("sm_90", 227), ("sm_120", 99), ("gfx942", 64)]
)
def test_targets_have_the_shared_memory_of_their_vendors_guide(name, shared):
    assert TARGETS[name].shared_bytes == shared * 1024


@pytest.mark.parametrize(
    "device, target",
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_100"),
        ((12, 0), "sm_120"),
        # not in the table: the one of its generation with the least shared memory
        ((8, 7), "sm_86"),
        ((10, 3), "sm_100"),
        ((12, 1), "sm_120"),
        # of a generation that nobody knows: what fits everywhere
        ((11, 0), "sm_86"),
        ((13, 0), "sm_86"),
    ],
)
def test_a_gpu_gets_configurations_that_fit_it(capability, device, target):
    capability(*device)
    assert target_of(CUDA).name == target


def test_an_amd_gpu_gets_the_amd_target(capability, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert target_of(CUDA).name == "gfx942"


def test_a_cpu_gets_a_target_for_the_interpreter():
    assert target_of(CPU) in TARGETS.values()


# ---------------------------------------------------------------- compiling


def test_interpreted_kernels_are_not_compiled(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    target = TARGETS["sm_90"]
    with pytest.raises(RuntimeError, match="compile without TRITON_INTERPRET"):
        recorded_launches(sound.launches(target), target)


CUOBJDUMP = " Function helper:\n  REG:20 STACK:8 SHARED:0\n Function kernel:\n  REG:168 STACK:0 SHARED:1024 LOCAL:0\n"
AMDGCN = """
    .agpr_count:     128
    .private_segment_fixed_size: 24
    .sgpr_count:     37
    .vgpr_count:     340
    .vgpr_spill_count: 6
"""


def test_cuda_resources_are_the_most_of_the_kernel_and_its_functions(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout=CUOBJDUMP)
    monkeypatch.setattr(resources.subprocess, "run", lambda *words, **options: answer)
    assert resources.cuda_registers_and_stack(b"", Path("cuobjdump")) == (168, 8)


def test_amd_resources_come_from_the_metadata_of_the_assembly():
    assert resources.amd_registers_and_stack(AMDGCN) == (340, 24)


def test_what_is_not_told_is_absent():
    assert resources.amd_registers_and_stack("") == (None, None)
