"""Preflight decides device, precision and accumulation, and finds every problem in one go."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from litespark.device import Device
from litespark.launch import ALONE, Ranks
from litespark.planning.memory import training_state_bytes
from litespark.run.preflight import Machine, preflight
from litespark.run.targets import ConfigError
from litespark.training.optim import OptimizerConfig
from tests.run.composed import parts

OF_TWO = Ranks(world_size=2, rank=1, local_rank=1, local_world_size=2)


def test_without_a_gpu_a_run_computes_in_fp32_on_the_cpu(logs, no_gpu):
    words = "trainer.accelerator=auto data.micro_batch_size=8 trainer.global_batch_size=16".split()
    assert preflight(parts(logs, *words), ALONE) == Machine(torch.device("cpu"), "fp32", 2, ALONE)


def test_more_processes_than_gpus_are_refused(logs, card):
    card()
    with pytest.raises(ConfigError, match=r"got 2 processes on this machine and 1 devices \(cuda\), expected a"):
        preflight(parts(logs, "trainer.accelerator=auto", "strategy=ddp"), OF_TWO)


def test_a_model_whose_state_exceeds_the_memory_is_refused_before_it_is_built(logs, card):
    card((8, 0), gibibytes=80)
    needed = training_state_bytes(parts("model=llama8b").model, keeps_casts=True) / 2**30
    with pytest.raises(ConfigError, match=rf"memory: .*llama8b .* take {needed:.1f} GiB .* A Card has 80.0 GiB"):
        preflight(parts(logs, "model=llama8b", "trainer.accelerator=auto"), ALONE)


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


def test_shards_on_more_devices_are_advised_as_a_command(logs, card):
    words = ["model=llama8b", "trainer.accelerator=auto", "trainer.global_batch_size=24"]
    for here, command in ((8, "torchrun --nnodes=1 --nproc-per-node=3"), (2, "torchrun --nnodes=2 --nproc-per-node=2")):
        card((8, 0), gibibytes=80, count=here)
        with pytest.raises(ConfigError, match=rf"over 3 devices: {command} train\.py strategy=fsdp"):
            preflight(parts(logs, *words), ALONE)
    three = Ranks(world_size=3, rank=0, local_rank=0, local_world_size=3)
    preflight(parts(logs, *words, "strategy=fsdp"), three)


def test_all_problems_are_told_at_once(tmp_path, no_gpu):
    (tmp_path / "file").touch()
    words = f"data=slimpajama paths.data={tmp_path} data.seq_len=4096 strategy=ddp".split()
    words += ["trainer.accelerator=gpu", "trainer.global_batch_size=3"]
    with pytest.raises(ConfigError) as caught:
        preflight(parts(*words, f"paths.logs={tmp_path}/file"), OF_TWO)
    heading, *problems = str(caught.value).splitlines()
    assert heading == "this run cannot start here:"
    # of several processes the first alone looks for the data, and later
    starts = "trainer.accelerator trainer.global_batch_size data.seq_len paths.logs".split()
    assert [problem.partition(":")[0].partition("=")[0] for problem in problems] == [f"- {key}" for key in starts]


def test_trying_the_folder_leaves_no_file(tmp_path, no_gpu):
    preflight(parts(f"paths.logs={tmp_path}"), ALONE)
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_target_needs_validations_and_text(logs):
    with pytest.raises(ConfigError, match="have no bits per byte; set data=standard_library"):
        preflight(parts(logs, "data=synthetic", "budget.target_bpb=1.5"), ALONE)
    with pytest.raises(ConfigError, match=r"budget\.target_bpb=1\.5: got trainer\.validate_every=null.*set trainer"):
        preflight(parts(logs, "data=standard_library", "budget.target_bpb=1.5", "trainer.validate_every=null"), ALONE)
    preflight(parts(logs, "data=standard_library", "budget.target_bpb=1.5", "trainer.validate_every=5"), ALONE)


def test_a_task_is_given_the_data_that_it_learns_from(logs):
    for words, message in (
        ("task=dpo data=rated", r"got data of rated, expected pairs; choose data=pairs, or task=kto with this data"),
        ("task=sft", r"got data of text, expected conversations; .*, or task=pretrain with this data"),
        ("data=pairs", r"task=pretrain: got data of pairs, expected text; .*, or task=dpo or task=reward with this"),
    ):
        with pytest.raises(ConfigError, match=message):
            preflight(parts(logs, *words.split()), ALONE)


GRAPH = ("ops.cuda_graph=true", "ops.attention=sdpa", "trainer.accelerator=auto", "precision=bf16")


def test_a_cuda_graph_is_refused_on_a_cpu_in_one_message(logs, no_gpu):
    with pytest.raises(ConfigError) as caught:
        preflight(parts(logs, *GRAPH, "recompute=full"), ALONE)
    problems = str(caught.value).splitlines()[1:]
    assert [problem for problem in problems if "cuda_graph" in problem] == [
        "- ops.cuda_graph=true: got a device of type cpu, expected an NVIDIA GPU; set ops.cuda_graph=false"
    ]


@pytest.mark.parametrize(
    "word, message",
    [
        ("strategy=ddp", r"got strategy=ddp, expected one device; set strategy=single"),
        ("strategy=fsdp", r"got strategy=fsdp, expected one device; set strategy=single"),
        ("precision=fp8", r"got precision=fp8, expected bf16: .* set precision=bf16"),
        ("ops.compile=block", r"got ops\.compile=block, .* set ops\.compile=none"),
        ("recompute=full", r"got recompute=full, .* set recompute=swiglu"),
        ("optim.fused=false", r"got optim\.fused=false, .* set optim\.fused=true"),
        ("ops.attention=flex", r"ops\.attention: got flex, .* nothing is compiled; expected one that can: "),
        ("ops.attention=varlen", r"ops\.attention: got varlen, .* documents differs .* expected one that can: "),
    ],
)
def test_a_cuda_graph_is_refused_where_steps_may_differ(logs, card, word, message):
    card((9, 0), gibibytes=80)
    preflight(parts(logs, *GRAPH), ALONE)
    with pytest.raises(ConfigError, match=message):
        preflight(parts(logs, *GRAPH, word), ALONE)


def test_a_cuda_graph_is_refused_for_what_is_not_ours(logs, card):
    @dataclasses.dataclass(frozen=True)
    class Mine:
        name: str = "mine"
        measures_text: bool = True

    card((9, 0), gibibytes=80)
    ours = parts(logs, *GRAPH)
    for changes in ({"task": Mine()}, {"optim": OptimizerConfig()}):
        with pytest.raises(ConfigError, match=r"ops\.cuda_graph=true: got (task=Mine|optim=OptimizerConfig), expected"):
            preflight(dataclasses.replace(ours, **changes), ALONE)
