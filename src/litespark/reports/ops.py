"""The ops of a run: which backend ran, how far it is from its reference, and what others cost."""

from __future__ import annotations

from litespark.reports.table import Table, texts
from litespark.run.record import RunRecord
from litespark.run.record_ops import OpRecord, VerificationRecord


def table(record: RunRecord) -> Table:
    """A row for each op."""
    rows = []
    for op in record.ops:
        used = f"{op.used} ({op.detail})" if op.detail else op.used
        ordered = sorted(op.times, key=lambda each: each.milliseconds)
        times = ", ".join(f"{each.backend} {each.milliseconds:.3g} ms" for each in ordered) or "not measured"
        rows.append((op.op, used, op.asked, _verified(op), times, op.reason or ""))
    columns = texts(
        "op", "backend", "asked for", "verification: worst distance (allowed)", "forward and backward", "why"
    )
    return Table(columns, rows, title="" if rows else "The model has no ops with backends.")


def _verified(op: OpRecord) -> str:
    cases = [case for case in op.verifications if case.backend == op.used]
    failed = [f"{case.backend} failed ({case.case})" for case in op.verifications if not case.passed]
    outcome = _worst(cases) if cases else "it is the reference" if op.used == "reference" else "not verified"
    return "; ".join([outcome, *failed])


def _worst(cases: list[VerificationRecord]) -> str:
    """The tensor that comes nearest to its bound."""
    differences = [
        (_share(each.distance, each.bound), f"{each.distance:.1e} ({each.bound:.1e}) {each.tensor}", case)
        for case in cases
        for each in case.differences
        if each.distance is not None
    ]
    if not differences:
        return "it raised " + (cases[0].error or "nothing and returned nothing finite")
    _, distance, case = max(differences, key=lambda each: each[0])
    return f"{distance}, {case.dtype}, {case.sizes}{', interpreted' if case.interpreted else ''}"


def _share(distance: float, bound: float) -> float:
    """Of what is allowed; casts are allowed nothing, and have nothing where they are right."""
    if bound:
        return distance / bound
    return float("inf") if distance else 0.0
