"""Inputs of the chunked losses for their tests, and chunks and blocks that are tiny."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from litespark.ops.backend import BACKENDS, REFERENCE
from litespark.ops.linear_cross_entropy import chunks, kernels

BACKEND_NAMES = [name for name in BACKENDS["linear_cross_entropy"] if name != REFERENCE]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHUNK = 4


@contextmanager
def tiny_chunks() -> Iterator[None]:
    """CHUNK tokens in a chunk, and blocks of 64 bytes of logits in the kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", 1)
        patch.setattr(chunks, "LEAST_ROWS", CHUNK)
        patch.setattr(chunks, "ROW_MULTIPLE", CHUNK)
        patch.setattr(kernels, "_MOST_BLOCK_BYTES", 64)
        yield


def draw(tokens=6, width=12, vocab_size=37, ignored=(2,), ignore_index=-100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(vocab_size, (tokens,), generator=generator)
    labels[[index for index in ignored if index < tokens]] = ignore_index
    inputs = {
        "hidden": torch.randn(tokens, width, generator=generator),
        "weight": torch.randn(vocab_size, width, generator=generator) / 2,
        "fixed labels": labels,
    }
    return {name: x.to(DEVICE) for name, x in inputs.items()}


def leaves(**sizes):
    inputs = draw(**sizes)
    return inputs["hidden"].requires_grad_(), inputs["weight"].requires_grad_(), inputs["fixed labels"]


def losses_of(op, **options):
    def run(hidden, weight, labels):
        found = op(hidden, weight, labels, **options)
        return found.nats if isinstance(found, tuple) else found

    return run
