"""The ops of a run: which backend ran, how far it is from its reference, and what others cost."""

from __future__ import annotations

import math

from litespark.reports.table import Table, texts
from litespark.run.record import RunRecord
from litespark.run.record_ops import OpRecord, VerificationRecord


def table(record: RunRecord) -> Table:
    """A row for each op."""
    rows = []
    for op in record.ops:
        used = f"{op.used} ({op.detail})" if op.detail else op.used
        ordered = sorted(op.times, key=lambda time: time.milliseconds)
        times = ", ".join(f"{time.backend} {time.milliseconds:.3g} ms" for time in ordered) or "not measured"
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
    """The tensor that comes nearest to its bound; casts are allowed nothing, and have nothing where they are right."""
    differences = [
        (each.distance / each.bound if each.bound else math.inf if each.distance else 0.0, each, case)
        for case in cases
        for each in case.differences
        if each.distance is not None
    ]
    if not differences:
        return "it raised " + (cases[0].error or "nothing and returned nothing finite")
    _, worst, case = max(differences, key=lambda difference: difference[0])
    where = f"{case.dtype}, {case.sizes}{', interpreted' if case.interpreted else ''}"
    return f"{worst.distance:.1e} ({worst.bound:.1e}) {worst.tensor}, {where}"
