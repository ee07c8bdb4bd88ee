"""What a report says of the ops: which backend ran, how far it is from its reference, and what it cost elsewhere."""

from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.run_ops import OpRecord, ProofRecord
from litespark.reports.quantities import ABSENT
from litespark.reports.tables import markdown_table


def ops_table(record: RunRecord) -> str:
    """One row an op; a record from before ops were recorded gives one sentence."""
    if not record.ops:
        return "This run was recorded before backends were."
    return markdown_table(
        ("op", "backend", "asked for", "proof: worst distance (allowed)", "forward and backward", "why"),
        [(op.op, _used(op), op.asked, _proven(op), _times(op), op.reason or "") for op in record.ops],
    )


def _used(op: OpRecord) -> str:
    return f"{op.used} ({op.detail})" if op.detail else op.used


def _proven(op: OpRecord) -> str:
    proofs = [proof for proof in op.proofs if proof.backend == op.used]
    failed = [f"{proof.backend} failed ({proof.case})" for proof in op.proofs if not proof.passed]
    said = [_worst(proofs)] if proofs else ["it is the reference" if op.used == "reference" else "not proven"]
    return "; ".join([*said, *failed])


def _worst(proofs: list[ProofRecord]) -> str:
    """The tensor that comes nearest to its bound."""
    shares = [
        (_share(each.distance, each.bound), each, proof)
        for proof in proofs
        for each in proof.differences
        if each.distance is not None
    ]
    if not shares:
        return "it raised " + (proofs[0].error or "nothing and returned nothing finite")
    _, worst, proof = max(shares, key=lambda share: share[0])
    interpreted = ", interpreted" if proof.interpreted else ""
    return f"{worst.distance:.1e} ({worst.bound:.1e}) {worst.tensor}, {proof.dtype}, {proof.sizes}{interpreted}"


def _share(distance: float, bound: float) -> float:
    """Of what is allowed; casts are allowed nothing, and have nothing where they are right."""
    if bound:
        return distance / bound
    return float("inf") if distance else 0.0


def _times(op: OpRecord) -> str:
    ordered = sorted(op.times, key=lambda each: each.milliseconds)
    return ", ".join(f"{each.backend} {each.milliseconds:.3g} ms" for each in ordered) or ABSENT
