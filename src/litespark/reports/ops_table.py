"""What a report says of the ops: which backend ran, how far it is from its reference, and what it cost elsewhere."""

from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.run_ops import OpRecord, VerificationRecord
from litespark.reports.quantities import ABSENT
from litespark.reports.tables import markdown_table


def ops_table(record: RunRecord) -> str:
    """One row an op; a record from before ops were recorded gives one sentence."""
    if not record.ops:
        return "This run was recorded before backends were."
    return markdown_table(
        ("op", "backend", "asked for", "verification: worst distance (allowed)", "forward and backward", "why"),
        [(op.op, _used(op), op.asked, _verified(op), _times(op), op.reason or "") for op in record.ops],
    )


def _used(op: OpRecord) -> str:
    return f"{op.used} ({op.detail})" if op.detail else op.used


def _verified(op: OpRecord) -> str:
    verifications = [verification for verification in op.verifications if verification.backend == op.used]
    failed = [
        f"{verification.backend} failed ({verification.case})"
        for verification in op.verifications
        if not verification.passed
    ]
    said = (
        [_worst(verifications)]
        if verifications
        else ["it is the reference" if op.used == "reference" else "not verified"]
    )
    return "; ".join([*said, *failed])


def _worst(verifications: list[VerificationRecord]) -> str:
    """The tensor that comes nearest to its bound."""
    shares = [
        (_share(each.distance, each.bound), each, verification)
        for verification in verifications
        for each in verification.differences
        if each.distance is not None
    ]
    if not shares:
        return "it raised " + (verifications[0].error or "nothing and returned nothing finite")
    _, worst, of = max(shares, key=lambda share: share[0])
    interpreted = ", interpreted" if of.interpreted else ""
    return f"{worst.distance:.1e} ({worst.bound:.1e}) {worst.tensor}, {of.dtype}, {of.sizes}{interpreted}"


def _share(distance: float, bound: float) -> float:
    """Of what is allowed; casts are allowed nothing, and have nothing where they are right."""
    if bound:
        return distance / bound
    return float("inf") if distance else 0.0


def _times(op: OpRecord) -> str:
    ordered = sorted(op.times, key=lambda each: each.milliseconds)
    return ", ".join(f"{each.backend} {each.milliseconds:.3g} ms" for each in ordered) or ABSENT
