"""The sizes at which the ops of one training step run: what proofs, measurements and requirements of backends need."""

from dataclasses import dataclass


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
