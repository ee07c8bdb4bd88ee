"""What a variant recomputes once memory does not suffice, and what that costs."""

from __future__ import annotations

from litespark.metrics.records.step import VariantKind, VariantRecord

# what is tried one after the other
KINDS: dict[VariantKind, tuple[str, ...]] = {
    "huggingface": ("none", "full"),
    "litespark": ("none", "swiglu", "full"),
    "train.py": ("none", "swiglu", "full"),
}


def next_recompute(variant: VariantRecord) -> str | None:
    """What the next process of a variant recomputes; None: as the variant has it of itself.

    Raises:
        LookupError: memory did not suffice with the last of its kinds either.
    """
    tried = [each.recompute for each in variant.rounds if each.outcome == "out of memory"]
    if not tried:
        return None
    kinds = KINDS[variant.kind]
    later = kinds[kinds.index(tried[-1]) + 1 :]
    if not later:
        raise LookupError(f"{variant.name} is out of memory with recompute {tried[-1]}")
    return later[0]
