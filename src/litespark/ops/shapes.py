"""Where and at which sizes the ops of one training step run: what verifications and measurements of backends need."""

from dataclasses import dataclass

import torch

from litespark.ops.fp8.settings import Fp8Config


@dataclass(frozen=True)
class StepShapes:
    """Sizes of one micro-batch in one layer."""

    sequences: int  # B
    length: int  # S
    hidden_size: int  # D
    num_heads: int  # H
    num_kv_heads: int  # K
    head_dim: int  # Dh
    intermediate_size: int  # F
    vocab_size: int  # V
    documents: bool = False  # sequences are packed with documents that do not see each other

    @property
    def tokens(self) -> int:
        """T = B·S."""
        return self.sequences * self.length


@dataclass(frozen=True)
class Place:
    """Where a run computes, and at which sizes."""

    device: torch.device  # of this rank
    dtype: torch.dtype  # of the activations
    shapes: StepShapes  # of a micro-batch
    autocast: bool = False  # over fp32 weights
    fp8: Fp8Config | None = None  # settings of a run in fp8; None: it is not, or nothing is known of them
    residual: torch.dtype | None = None  # of the residual stream; None: fp32 under autocast
    cuda_graph: bool = False  # steps are recorded and replayed
    softcap: bool = False  # scores of attention are capped
    branches: bool = False  # documents have branches

    @property
    def stream_dtype(self) -> torch.dtype:
        """Dtype of the residual stream."""
        return self.residual or (torch.float32 if self.autocast else self.dtype)
