"""Which Lightning strategy, sharding and precision a setting means."""

from contextlib import nullcontext

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy

from litespark.mesh import Roles
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import forward_context, lightning_precision
from litespark.training.parallel.strategy import MeshStrategy, build_strategy

CPU = torch.device("cpu")


@pytest.mark.parametrize("name, kind", [("ddp", DDPStrategy), ("fsdp", MeshStrategy)])
def test_collectives_have_the_backend_of_the_device_and_the_timeout_of_the_settings(name, kind):
    strategy = build_strategy(StrategyConfig(name, timeout_seconds=77), CPU, Roles(2))
    assert isinstance(strategy, kind)
    assert (strategy._process_group_backend, strategy._timeout.total_seconds()) == ("gloo", 77)
    assert build_strategy(StrategyConfig(name), torch.device("cuda"), Roles(2))._process_group_backend == "nccl"


@pytest.mark.parametrize(
    "settings, started, roles",
    [
        ({"name": "single"}, (1, 1), (1, 1, 1)),
        ({"name": "ddp"}, (4, 4), (4, 1, 1)),
        ({"name": "fsdp"}, (4, 4), (1, 4, 1)),
        ({"name": "hsdp"}, (64, 8), (8, 8, 1)),
        ({"name": "hsdp", "shard": 16}, (64, 8), (4, 16, 1)),
        ({"name": "tp"}, (8, 8), (1, 1, 8)),
        ({"name": "fsdp_tp"}, (64, 8), (1, 8, 8)),
        ({"name": "fsdp_tp", "tensor": 2, "shard": 8}, (64, 8), (4, 8, 2)),
    ],
)
def test_the_strategy_gives_the_ranks_their_roles(settings, started, roles):
    found = StrategyConfig(**settings).roles(*started)
    assert (found, found.data) == (roles, started[0] // roles[2])


@pytest.mark.parametrize(
    "settings, started, message",
    [
        (
            {"name": "hsdp", "shard": 6},
            (8, 8),
            "strategy.shard: got 6, expected a number that divides .* 8 .* set strategy.shard=4",
        ),
        ({"name": "fsdp_tp", "tensor": 3}, (8, 8), "strategy.tensor: got 3, .* set strategy.tensor=2"),
        ({"name": "fsdp_tp", "tensor": 2, "shard": 3}, (8, 8), "strategy.shard: got 3, .* 4 .* set strategy.shard=2"),
    ],
)
def test_a_division_that_leaves_ranks_over_is_refused(settings, started, message):
    with pytest.raises(ValueError, match=message):
        StrategyConfig(**settings).roles(*started)


def test_one_device_is_refused_to_several_processes():
    for name, processes in (("single", 1), ("ddp", 2), ("fsdp", 2)):
        StrategyConfig(name).roles(processes)
    with pytest.raises(ValueError, match="strategy=single: got 2 processes, expected one; start without torchrun"):
        StrategyConfig("single").roles(2)


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
