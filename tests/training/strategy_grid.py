"""One training under any strategy, as a rank of it takes part: what each step and the last validation measured."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from litespark.models.parallel_layers import parts_of
from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.parallel.config import StrategyConfig
from tests.training.small_runs import batches, small_run, training_module

SEQUENCES = 16  # of a step, in micro-batches of two: several on each of four ranks
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_layers": 3, "num_heads": 4, "num_kv_heads": 4, "intermediate_size": 24, "vocab_size": 32,
    "tie_embeddings": True,
}  # fmt: skip
# a large epsilon: Adam divides what rounding left of a gradient that is zero by itself
OPTIMIZERS = {
    kind: build(lr=1e-2, eps=1e-3, grad_clip=0.5) for kind, build in {"adamw": AdamWConfig, "muon": MuonConfig}.items()
}


def trained(folder: Path, settings: dict[str, Any], optimizer: str = "adamw", steps: int = 20) -> dict[str, Any]:
    """Loss, norm before clipping and tokens of each step, the weights after the last, and a validation of five
    sequences, which two and four ranks have unlike numbers of."""
    folder.mkdir(exist_ok=True)
    strategy = StrategyConfig(**settings)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    module = training_module(
        steps=steps,
        sequences=SEQUENCES,
        optimizer=OPTIMIZERS[optimizer],
        strategy=strategy,
        **SIZES,
    )
    accumulate = SEQUENCES // (2 * strategy.roles(ranks).data)
    run = small_run(folder, module, accumulate=accumulate, validate_every=steps, strategy=strategy, devices=ranks)
    measured: list[tuple[float, float, int]] = []
    step = module.optimizer_step

    def after(*arguments: Any, **named: Any) -> None:
        step(*arguments, **named)
        loss, divisor = module.step.sums[:2].tolist()
        measured.append((loss / divisor, float(module._norm), module.tokens_seen))

    module.optimizer_step = after  # type: ignore[method-assign]
    run.trainer.fit(module, batches(2, module.mesh, vocab_size=SIZES["vocab_size"]))
    assert module.model is not None
    weights: dict[str, list[torch.Tensor]] = {}
    parts = parts_of(module.model)
    for name, parameter in module.model.named_parameters():
        whole = (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().clone()
        weights.setdefault(parts[name].whole if name in parts else name, []).append(whole)
    together = {name: torch.cat(each) for name, each in weights.items()}
    return {"steps": measured, "validation": module.validation, "weights": together}


def report(folder: Path, cases: dict[str, dict[str, Any]], steps: int) -> None:
    """On every rank: each of `cases`, settings of a strategy by name, with Muon where that has it."""
    dist.init_process_group("gloo")
    results = {
        name: trained(folder / name, settings, "muon" if name.endswith("muon") else "adamw", steps)
        for name, settings in cases.items()
    }
    torch.save(results, folder / f"rank-{dist.get_rank()}.pt")
    dist.destroy_process_group()
