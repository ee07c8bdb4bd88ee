"""Preflight decides device, precision and accumulation, and finds every problem in one go."""

from __future__ import annotations

import re

import pytest
import torch

from litespark.device import Accelerator, Device
from litespark.launch import Ranks
from litespark.planning.memory import training_state_bytes
from litespark.run.preflight import Machine, preflight
from litespark.run.targets import ConfigError
from tests.run.composed import parts

ALONE = Ranks(world_size=1, rank=0, local_rank=0, local_world_size=1)
OF_TWO = Ranks(world_size=2, rank=1, local_rank=1, local_world_size=2)


@pytest.fixture
def logs(tmp_path):
    return f"paths.logs={tmp_path}"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch):
    """One device of another machine, as far as preflight asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A Card")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    monkeypatch.setattr(Accelerator, "memory_bytes", 80 * 2**30)


def test_without_a_gpu_a_run_computes_in_fp32_on_the_cpu(logs, no_gpu):
    made = preflight(
        parts(logs, "trainer.accelerator=auto", "data.micro_batch_size=8", "trainer.global_batch_size=16"), ALONE
    )
    assert made == Machine(torch.device("cpu"), "fp32", 2, ALONE)


def test_more_processes_than_gpus_are_refused(logs, gpu):
    with pytest.raises(ConfigError, match=r"got 2 processes on this machine and 1 devices \(cuda\), expected a"):
        preflight(parts(logs, "trainer.accelerator=auto", "strategy=ddp"), OF_TWO)


def test_a_model_whose_state_exceeds_the_memory_is_refused_before_it_is_built(logs, gpu):
    needed = training_state_bytes(parts("model=llama8b").model) / 2**30
    with pytest.raises(
        ConfigError, match=rf"memory: .*llama8b .* take {needed:.1f} GiB .* A Card has 80.0 GiB"
    ) as caught:
        preflight(parts(logs, "model=llama8b", "trainer.accelerator=auto"), ALONE)
    assert "strategy=fsdp" in str(caught.value)
    eight = Ranks(world_size=8, rank=0, local_rank=0, local_world_size=8)
    preflight(
        parts(logs, "model=llama8b", "trainer.accelerator=auto", "strategy=fsdp", "trainer.global_batch_size=128"),
        eight,
    )


def test_processes_of_one_host_share_its_memory(logs, no_gpu, monkeypatch):
    one = training_state_bytes(parts().model)
    monkeypatch.setattr(Device, "memory_bytes", int(1.5 * one))
    preflight(parts(logs), ALONE)
    with pytest.raises(ConfigError, match=r"memory: .* this host has"):
        preflight(parts(logs, "strategy=ddp", "trainer.global_batch_size=32"), OF_TWO)
    preflight(parts(logs, "strategy=fsdp", "trainer.global_batch_size=32"), OF_TWO)


@pytest.mark.parametrize("ranks", [ALONE, OF_TWO])
def test_of_a_model_too_large_for_the_host_the_advice_is_one_that_fits(logs, no_gpu, monkeypatch, ranks):
    strategy = "strategy=ddp" if ranks is OF_TWO else "strategy=single"
    words = ["model=llama160m", strategy, "trainer.global_batch_size=32"]
    monkeypatch.setattr(Device, "memory_bytes", 2 * 2**30)
    with pytest.raises(ConfigError, match=r"memory: .* torchrun --nnodes=\d --nproc-per-node=1 ") as caught:
        preflight(parts(logs, *words), ranks)
    layers = re.search(r"model\.num_layers=\d+", str(caught.value))
    preflight(parts(logs, *words, layers[0]), ranks)


def test_shards_on_more_devices_are_advised_as_a_command(logs, gpu, monkeypatch):
    words = ["model=llama8b", "trainer.accelerator=auto", "trainer.global_batch_size=24"]
    for here, command in ((8, "torchrun --nnodes=1 --nproc-per-node=3"), (2, "torchrun --nnodes=2 --nproc-per-node=2")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda here=here: here)
        with pytest.raises(ConfigError, match=rf"over 3 devices: {command} train\.py strategy=fsdp"):
            preflight(parts(logs, *words), ALONE)
    three = Ranks(world_size=3, rank=0, local_rank=0, local_world_size=3)
    preflight(parts(logs, *words, "strategy=fsdp"), three)


def test_all_problems_are_told_at_once(tmp_path, no_gpu):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        preflight(
            parts(
                "data=slimpajama",
                f"paths.data={tmp_path}",
                f"paths.logs={tmp_path}/file",
                f"initial_weights={tmp_path}/none",
                "trainer.accelerator=gpu",
                "trainer.global_batch_size=3",
                "data.seq_len=4096",
                "strategy=ddp",
            ),
            OF_TWO,
        )
    heading, *problems = str(caught.value).splitlines()
    assert heading == "this run cannot start here:"
    starts = (
        "trainer.accelerator",
        "trainer.global_batch_size",
        "data.seq_len",
        "initial_weights",  # of several processes the first alone looks for the data, and later
        "paths.logs",
    )
    assert len(problems) == len(starts)
    for problem, start in zip(problems, starts, strict=True):
        assert problem.startswith(f"- {start}")


def test_trying_the_folder_leaves_no_file(tmp_path, no_gpu):
    preflight(parts(f"paths.logs={tmp_path}"), ALONE)
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_target_needs_validations_and_text(logs):
    with pytest.raises(ConfigError, match="have no bits per byte; set data=standard_library"):
        preflight(parts(logs, "data=synthetic", "budget.target_bpb=1.5"), ALONE)
    with pytest.raises(ConfigError, match=r"budget\.target_bpb=1\.5: got trainer\.validate_every=null.*set trainer"):
        preflight(parts(logs, "data=standard_library", "budget.target_bpb=1.5", "trainer.validate_every=null"), ALONE)
    preflight(parts(logs, "data=standard_library", "budget.target_bpb=1.5", "trainer.validate_every=5"), ALONE)
