"""Which Lightning strategy, sharding and precision a setting means."""

from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from litespark.training.strategies import StrategyConfig, build_strategy, forward_context, lightning_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("name, kind", [("ddp", DDPStrategy), ("fsdp", ModelParallelStrategy)])
def test_collectives_have_the_backend_of_the_device_and_the_timeout_of_the_settings(name, kind):
    strategy = build_strategy(StrategyConfig(name, timeout_seconds=77), CPU, 2)
    assert type(strategy) is kind
    assert (strategy._process_group_backend, strategy._timeout.total_seconds()) == ("gloo", 77)
    assert build_strategy(StrategyConfig(name), torch.device("cuda"), 2)._process_group_backend == "nccl"


@pytest.mark.parametrize(
    "name, world_size, roles", [("single", 1, (1, 1, 1)), ("ddp", 4, (4, 1, 1)), ("fsdp", 4, (1, 4, 1))]
)
def test_the_strategy_gives_the_ranks_their_roles(name, world_size, roles):
    found = StrategyConfig(name).roles(world_size)
    assert (found, found.data) == (roles, world_size)


def test_one_device_is_refused_to_several_processes():
    for name, processes in (("single", 1), ("ddp", 2), ("fsdp", 2)):
        StrategyConfig(name).check_world_size(processes)
    with pytest.raises(ValueError, match="strategy=single: got 2 processes, expected one; start without torchrun"):
        StrategyConfig("single").check_world_size(2)


@pytest.mark.parametrize(
    "precision, device, expected",
    [
        ("fp32", "cpu", "32-true"),
        ("bf16", "cpu", "bf16-mixed"),
        ("bf16", "cuda", "bf16-mixed"),
        ("fp8", "cuda", "bf16-mixed"),
        ("fp8", "cpu", "32-true"),  # simulated: what is not in fp8 is exact
    ],
)
def test_precision(precision, device, expected):
    assert lightning_precision(precision, torch.device(device)) == expected
    if device == "cpu":
        with forward_context(precision, CPU):
            ours = autocast_state()
        mixed = expected == "bf16-mixed"
        with MixedPrecision(expected, device).forward_context() if mixed else nullcontext():
            assert ours == autocast_state()
        assert ours[0] == mixed


def autocast_state() -> tuple[object, ...]:
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()
