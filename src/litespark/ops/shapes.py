"""Where and at which sizes the ops of one training step run: what verifications and measurements of backends need."""

from dataclasses import dataclass

import torch

from litespark.ops.fp8.settings import Fp8Config


@dataclass(frozen=True)
class StepShapes:
    """Sizes of one micro-batch in one layer.

    Attributes:
        rows: B.
        length: S.
        hidden_size: D.
        num_heads, num_kv_heads, head_dim: H, K, Dh.
        intermediate_size: F.
        vocab_size: V.
        documents: rows are packed with documents that do not see each other.
    """

    rows: int
    length: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    documents: bool = False


@dataclass(frozen=True)
class Place:
    """Where a run computes, and at which sizes.

    Attributes:
        device: of this rank.
        dtype: of the activations.
        shapes: of a micro-batch.
        autocast: over fp32 weights and an fp32 residual stream.
        fp8: settings of a run in fp8; None: it is not, or nothing is known of them.
    """

    device: torch.device
    dtype: torch.dtype
    shapes: StepShapes
    autocast: bool = False
    fp8: Fp8Config | None = None
