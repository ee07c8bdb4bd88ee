"""Small random Llamas in simulated fp8, and steps of training them."""

import torch

from litespark.models.llama.fp8 import enable_fp8
from litespark.ops.fp8.reference import PIECES
from litespark.ops.fp8.settings import Fp8Config
from tests.models.small import random_ids, small_model

SIMULATED = Fp8Config(simulate=True)


def model_in_fp8(config=SIMULATED, pieces=PIECES, **changes):
    model = small_model(**changes)
    enable_fp8(model, config, pieces)
    return model


def take_step(model, optimizer, seed, micro_batches=1):
    """One optimizer step on 32 tokens a micro-batch; the mean loss."""
    optimizer.zero_grad()
    total = 0.0
    for index in range(micro_batches):
        tokens, labels = (random_ids(2, 16, seed=seed % 3 + each + index) for each in (0, 1))
        loss = model(tokens, labels) / (32 * micro_batches)
        loss.backward()
        total += loss.item()
    optimizer.step()
    if model.fp8 is not None:
        model.fp8.finish_step()
    return total


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
