"""What is asked of a device: a CPU's answers, an accelerator's, and a run on a device that has next to nothing."""

import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litespark import device
from litespark.data.batch import batch_from_sequences
from litespark.device import NoDeviceError, cpu_name, device_of, find, out_of_memory
from litespark.metrics.meters import choose_meter
from litespark.metrics.mfu import Rates
from litespark.ops.backend import OpsConfig, resolve
from litespark.run import train as run
from litespark.run.instruments import say_what_is_absent
from litespark.tasks.pretrain import Pretrain
from litespark.training.any_accelerator import AnyAccelerator, lightning_accelerator, why_no_ddp
from litespark.training.optim import AdamWConfig, build_optimizer
from litespark.training.random_state import random_state, restore_random_state
from litespark.training.step import OptimizerStep
from tests.run.composed import SMALL, config
from tests.stand_in_device import stand_in
from tests.training.small_runs import small_llama

CPU = torch.device("cpu")
GPU = torch.device("cuda", 1)


@pytest.fixture
def machine(monkeypatch):
    """Lets this machine have so many accelerators of a kind."""

    def be(kind: str | None, count: int = 1) -> None:
        here = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: here)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: here is not None)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)

    return be


@pytest.mark.parametrize(
    ("here", "asked", "index", "expected"),
    [
        (None, "auto", None, "cpu"),
        ("cuda", "cpu", None, "cpu"),
        ("cuda", "auto", None, "cuda:0"),
        ("cuda", "gpu", 1, "cuda:1"),
        ("xpu", "auto", 1, "xpu:1"),
        ("mps", "mps", 0, "mps:0"),
    ],
)
def test_the_accelerator_is_the_one_that_pytorch_finds(machine, here, asked, index, expected):
    machine(here, count=2)
    assert find(asked, index) == torch.device(expected)


@pytest.mark.parametrize(
    ("here", "asked", "index", "said"),
    [
        (None, "gpu", None, r"trainer\.accelerator=gpu: got no gpu .*no accelerator.* expected an NVIDIA or AMD GPU"),
        ("cuda", "mps", None, r"got no mps on this machine \(PyTorch finds only cuda\), expected an Apple GPU"),
        ("xpu", "auto", 2, r"got 2 devices of type xpu, expected at least 3"),
    ],
)
def test_one_that_is_not_there_is_refused(machine, here, asked, index, said):
    machine(here, count=2)
    with pytest.raises(NoDeviceError, match=said):
        find(asked, index)


def test_a_cpu_has_what_the_host_has(monkeypatch, tmp_path):
    there = device_of(CPU)
    assert (there.type, there.is_accelerator, there.has_timer, there.is_nvidia) == ("cpu", False, True, False)
    assert (there.peak_bytes(), there.allocated_bytes(), there.random_state(), there.uuid) == (None,) * 4
    assert (there.is_nvidia_or_amd, there.capability, there.multiplies_fp32_fastest) == (False, None, False)
    monkeypatch.setattr(device.time, "perf_counter", iter([1.0, 3.5]).__next__)
    assert there.milliseconds(there.mark(), there.mark()) == 2500
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Fine CPU @ 2 GHz\n")
    assert cpu_name(tmp_path / "cpuinfo") == "A Fine CPU @ 2 GHz"
    assert cpu_name(tmp_path / "absent")


PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    "texts, expected",
    [
        ({}, PHYSICAL),
        ({"memory.max": "1048576\n"}, 1048576),
        ({"memory.limit_in_bytes": "2097152\n"}, 2097152),
        ({"memory.max": "max\n"}, PHYSICAL),
        ({"memory.limit_in_bytes": "9223372036854771712\n"}, PHYSICAL),  # how the first version says: none
    ],
)
def test_a_container_has_the_memory_that_it_is_allowed(monkeypatch, tmp_path, texts, expected):
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(device, "Path", lambda place: tmp_path / Path(place).name)
    assert device_of(CPU).memory_bytes == expected


def test_an_accelerator_answers_through_pytorch(monkeypatch):
    properties = SimpleNamespace(total_memory=80 * 2**30, uuid="1-2-3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"Card {place.index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    asked = []
    for name in ("synchronize", "reset_peak_memory_stats", "max_memory_allocated", "memory_allocated"):
        monkeypatch.setattr(torch.accelerator, name, lambda place, name=name: asked.append((name, place)))
    there = device_of(GPU)
    assert (there.name, there.memory_bytes, there.uuid, there.has_bf16) == ("Card 1", 80 * 2**30, "GPU-1-2-3", False)
    assert not there.multiplies_fp32_fastest
    for ask in (there.synchronise, there.reset_peak, there.peak_bytes, there.allocated_bytes):
        ask()
    assert [place for _, place in asked] == [GPU] * 4


@pytest.mark.parametrize(
    ("place", "hip", "expected"),
    [
        (GPU, None, (True, True, (9, 0))),
        (GPU, "6.4", (True, False, None)),
        (torch.device("xpu", 0), None, (False, False, None)),
        (torch.device("mps", 0), None, (False, False, None)),
    ],
)
def test_only_an_nvidia_device_has_a_compute_capability(monkeypatch, place, hip, expected):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    there = device_of(place)
    assert (there.is_nvidia_or_amd, there.is_nvidia, there.capability) == expected


def test_autocast_rounds_products_or_leaves_them_and_keeps_the_cache_that_it_finds():
    x = torch.ones(2, 2)
    with device_of(CPU).autocast(torch.bfloat16, cached=False):
        assert (x @ x).dtype == torch.bfloat16
        with device_of(CPU).autocast(None):
            assert (x @ x).dtype == torch.float32
            assert not torch.is_autocast_cache_enabled()
    with device_of(CPU).autocast(torch.bfloat16):
        assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("no room\nfor it"), "no room"),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"),
        (RuntimeError("HIP out of memory. Tried"), "HIP out of memory. Tried"),
        (RuntimeError("MPS backend out of memory (MPS"), "MPS backend out of memory (MPS"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
    ],
)
def test_a_full_memory_is_told_from_other_errors_also_behind_them(error, line):
    assert out_of_memory(error) == line
    behind = ValueError("the compiler raised")
    behind.__cause__ = error
    assert out_of_memory(behind) == line


def test_apples_gpus_lack_what_pytorch_does_not_count_there(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waits.append)
    there = device_of(torch.device("mps", 0))
    assert there.multiplies_fp32_fastest
    assert (there.is_accelerator, there.has_timer, there.sum_dtype) == (True, False, torch.float32)
    assert (there.peak_bytes(), there.uuid, there.is_nvidia) == (None, None, False)
    # where the device has no timer, a mark waits for it
    assert there.milliseconds(there.mark(), there.mark()) >= 0
    assert len(waits) == 2


def test_a_step_needs_no_double_precision_where_the_device_has_none(monkeypatch):
    seen = set()

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            seen.update(x.dtype for x in tree_leaves(made) if isinstance(x, torch.Tensor))
            return made

    stand_in(monkeypatch, sum_dtype=torch.float32)
    model = small_llama().build(resolve(OpsConfig()), "none")
    batch = batch_from_sequences(torch.arange(18).view(2, 9), eos_id=3, document_mask=False)
    with Types():
        step = OptimizerStep(Pretrain(), grad_clip=1.0, device=CPU)
        step.take(model, build_optimizer(model, AdamWConfig()), [batch], 1e-3)
    assert torch.float32 in seen
    assert torch.float64 not in seen


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_a_process_can_keep_the_memory_that_its_tensors_free():
    program = textwrap.dedent("""
        import resource, torch
        from litespark.device import device_of

        def cleared_pages(repeats, megabytes=40):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(repeats):
                torch.zeros(megabytes * 2**18).add_(1)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        left_alone = cleared_pages(10)
        device_of(torch.device("cpu")).keep_freed_memory()
        print(left_alone, cleared_pages(10))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    left_alone, kept = map(int, done.stdout.split())
    # the first block is new, and a small one behind it may move it once more
    assert kept < left_alone / 2


def test_a_training_step_asks_for_that(monkeypatch):
    asked = []
    monkeypatch.setattr(device.Device, "keep_freed_memory", lambda there: asked.append(there.type))
    OptimizerStep(Pretrain(), grad_clip=None, device=CPU)
    assert asked == ["cpu"]


def test_the_random_state_of_the_device_is_saved_set_and_kept(monkeypatch):
    calls = stand_in(monkeypatch).calls
    state = random_state(CPU)
    restore_random_state(state, CPU)
    assert calls == ["random state", "set random state 7"]
    torch.manual_seed(1)
    with device_of(CPU).random_state_kept():
        inside = torch.rand(())
    assert torch.rand(()) == inside
    assert calls[2:] == ["random state", "set random state 7"]


def test_lightning_gets_an_accelerator_that_it_does_not_have(machine):
    machine("xpu", count=2)
    assert [lightning_accelerator(torch.device(kind)) for kind in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "mps"]
    made = lightning_accelerator(torch.device("xpu", 0))
    assert isinstance(made, AnyAccelerator)
    assert made.get_parallel_devices(made.parse_devices("2")) == [torch.device("xpu", 0), torch.device("xpu", 1)]
    assert (made.is_available(), made.auto_device_count()) == (True, 2)
    assert "set strategy=fsdp" in why_no_ddp(torch.device("xpu", 0))
    assert why_no_ddp(CPU) is why_no_ddp(GPU) is None


def test_one_line_says_what_an_accelerator_lacks_and_a_cpu_lacks_nothing(caplog):
    apple = torch.device("mps", 0)
    say_what_is_absent(apple, Rates(None, None, None), choose_meter(apple))
    (said,) = [line.getMessage() for line in caplog.records]
    assert "Triton kernels (Triton has no kernels for mps devices)" in said
    assert "energy (no energy counter is read of GPU of" in said
    caplog.clear()
    say_what_is_absent(CPU, Rates(None, None, None), choose_meter(CPU))
    assert not caplog.records


def test_a_run_on_a_device_without_timer_counters_and_kernels_says_so_and_leaves_them_out(
    tmp_path, monkeypatch, caplog
):
    here = stand_in(monkeypatch, has_timer=False)
    words = "ops=reference budget.steps=4 trainer.log_every=2 callbacks.verify=never".split()
    folder = run.train(config(*SMALL, *words, f"paths.logs={tmp_path}"))
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["provenance"]["environment"]["devices"][0]["name"] == "Stand-in 9000"
    assert record["throughput"]["tokens_per_second"] > 0
    for figure in ("step_ms_median", "step_ms_p95", "mfu_causal", "hfu_causal", "peak_memory_gib"):
        assert record["throughput"][figure] is None
    assert "Stand-in 9000" in record["energy"]["reason"]
    (said,) = [line.getMessage() for line in caplog.records if "a run is without" in line.getMessage()]
    for what in ("Stand-in 9000", "metrics.peak_flops", "energy", "step times", "peak memory"):
        assert what in said
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all("throughput/tokens_per_second" in row for row in rows if "train/loss" in row)
    assert not any(key.startswith(("throughput/step_ms", "memory/", "energy/")) for row in rows for key in row)
    # the loop waits for it where a window closes or a phase ends, and nowhere else
    assert "mark" not in here.calls
    assert "use" in here.calls
    assert "random state" in here.calls
