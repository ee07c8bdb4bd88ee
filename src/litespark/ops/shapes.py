"""Where and at which sizes the ops of one training step run: what proofs and measurements of backends need."""

from dataclasses import dataclass

import torch

from litespark.ops.fp8.settings import Fp8Config


@dataclass(frozen=True)
class StepShapes:
    """Sizes of one micro-batch in one layer.

    Attributes:
        rows: B.
        length: S.
        width: D.
        heads, kv_heads, head_width: H, K, Dh.
        feed_forward: F.
        vocabulary: V.
        documents: rows are packed with documents that do not see each other.
    """

    rows: int
    length: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
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
