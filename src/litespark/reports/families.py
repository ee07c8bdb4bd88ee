"""Which ops take the place of which layers of transformers, by family: what `litespark.apply` goes by, as a table."""

from litespark.models.huggingface.table import FAMILIES, Attention, Family, Head, Layer, Mlp, Norm
from litespark.reports.table import Table, texts

_ALONE = "left alone"


def table() -> Table:
    columns = texts("family", "norms", "q, k, v and rotary", "attention", "MLP", "addition and norm", "head and loss")
    return Table(columns, [_row(family) for family in FAMILIES.values()])


def _row(family: Family) -> tuple[str, ...]:
    softcap = family.attention is not None and family.attention.softcap is not None
    return (
        f"`{family.model_type}`",
        _norm(family.norm),
        _attention(family.attention),
        f"`attention`{', scores capped' if softcap else ''}",
        _mlp(family.mlp),
        _layer(family.layer),
        _head(family.head),
    )


def _norm(row: Norm | None) -> str:
    if row is None:
        return f"{_ALONE}: LayerNorm"
    return f"`rms_norm`{f', weight + {row.offset:g}' if row.offset else ''}"


def _attention(row: Attention | None) -> str:
    if row is None:
        return _ALONE
    norms = {"": "", "heads": ", norms of each head", "whole": ", norms of all heads"}[row.norms]
    one = ", one matrix" if len(row.inputs) == 1 else ""
    pairs = "" if row.pairs == "halves" else ", neighbours"
    some = "" if row.rotates_if is None else ", in the layers that rotate"
    return f"`rope`{pairs}{one}{norms}{some}"


def _mlp(row: Mlp | None) -> str:
    if row is None:
        return _ALONE
    return f"`swiglu`{', one matrix' if len(row.inputs) == 1 else ''}"


def _layer(row: Layer | None) -> str:
    if row is None:
        return "apart"
    details = [", no norm of the sum"] * (row.norm is None)
    details += [", norms of what is added"] * (row.after_attention is not None)
    details += [", scaled"] * (row.multiplier is not None)
    return f"`add_rms_norm`{''.join(details)}"


def _head(row: Head | None) -> str:
    if row is None:
        return _ALONE
    details = [", logits capped"] * (row.softcap is not None) + [", logits scaled"] * bool(
        row.divisor or row.multiplier
    )
    return f"`linear_cross_entropy`{''.join(details)}"
