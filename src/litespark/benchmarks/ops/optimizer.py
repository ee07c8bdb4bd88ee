"""The end of an optimizer step, clip and update: Triton's AdamW beside PyTorch's two, or Muon."""

import dataclasses
from collections.abc import Callable

import torch

from litespark.benchmarks.ops.contenders import timed
from litespark.metrics.records.ops import OptimizerRecord
from litespark.models.init import initialise
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.training.optim import AdamWConfig, OptimizerConfig, build_optimizer
from litespark.training.optim.adamw import why_not_triton
from litespark.training.step import finish_gradients

TRITON = "Triton's kernel"
FUSED = "PyTorch's fused kernel"
MUON = "Muon, with fused AdamW for embedding, head and norms"


def measure_optimizer(
    config: LlamaConfig, settings: OptimizerConfig, device: torch.device, *, seconds: float, bandwidth: float
) -> tuple[list[OptimizerRecord], int]:
    """Times of one step over one layer of the model, its embedding and head; and the number of their parameters.

    AdamW reads weight, gradient and both moments and writes three of them, and the norm reads the gradient once more:
    32 bytes a parameter at least. PyTorch's fused kernel writes the scaled gradient too. Muon is bound by products: its
    bytes a parameter say how much longer it takes.
    """
    with torch.device("meta"):
        model = Llama(dataclasses.replace(config, num_layers=1), resolve(OpsConfig()))
    model.to_empty(device=device)
    initialise(model, model.config, seed=0)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, device=device)
    kinds: dict[str, OptimizerConfig] = {MUON: settings}
    if isinstance(settings, AdamWConfig):
        kinds = {
            FUSED: dataclasses.replace(settings, adamw_kernel="torch"),
            "foreach": dataclasses.replace(settings, fused=False),
        }
        if why_not_triton(device, "auto") is None:
            kinds = {TRITON: dataclasses.replace(settings, fused=True, adamw_kernel="triton"), **kinds}
    runs = {name: _step(model, kind, device) for name, kind in kinds.items()}
    count = sum(parameter.numel() for parameter in model.parameters())
    times = timed(runs, device, seconds)
    return [
        OptimizerRecord(name, time, time.median_ms / 1e3 * bandwidth / count) for name, time in times.items()
    ], count


def _step(model: Llama, settings: OptimizerConfig, device: torch.device) -> Callable[[], object]:
    optimizer = build_optimizer(model, settings)
    loss, tokens = torch.ones((), device=device), torch.ones((), device=device)

    def step() -> None:
        finish_gradients(optimizer, loss, tokens, ranks=1, grad_clip=settings.grad_clip)
        optimizer.step()

    return step
