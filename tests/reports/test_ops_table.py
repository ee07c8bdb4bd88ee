"""The table of a run's ops shows what came nearest to its bound, also where some tensors are allowed nothing."""

from types import SimpleNamespace

import pytest

from litespark.metrics.records.run_ops import DifferenceRecord, OpRecord, VerificationRecord
from litespark.reports.ops_table import ops_table


@pytest.mark.parametrize(
    ("exact", "near", "shown"),
    [(0.0, 1e-4, "1.0e-04 (1.0e-03) near"), (0.0, 0.0, "0.0e+00 (0.0e+00) exact"), (1e-9, 1e-4, "1.0e-09 (0.0e+00)")],
)
def test_the_tensor_nearest_to_its_bound_is_shown(exact, near, shown):
    differences = [DifferenceRecord("exact", exact, 0.0), DifferenceRecord("near", near, 1e-3)]
    verification = VerificationRecord("triton", "cast", "2 x 2", "bf16", False, 0.1, True, differences, None)
    op = OpRecord("fp8", "auto", "triton", verifications=[verification])
    assert shown in ops_table(SimpleNamespace(ops=[op]))
