"""The ops of a run: the backend of each, why it was taken, and how its verification came out; other choices too."""

from dataclasses import field

from litespark.metrics.records.base import Measured, NotNegative, part


@part
class DifferenceRecord:
    """One output or gradient against the fp32 reference: ‖difference‖ / ‖reference‖; null where it was not finite."""

    tensor: str
    distance: Measured
    bound: float


@part
class VerificationRecord:
    """One case of one backend beside its reference; where ``interpreted``, of the arithmetic and no compiled kernel."""

    backend: str
    case: str
    sizes: str
    dtype: str
    interpreted: bool
    seconds: NotNegative
    passed: bool
    differences: list[DifferenceRecord] = field(default_factory=list)
    error: str | None = None
    without: list[str] = field(default_factory=list)  # structural cases of the run that it did not come to


@part
class BackendTimeRecord:
    """Forward and backward of one backend, as ``auto`` measured it."""

    backend: str
    milliseconds: float


@part
class ChoiceRecord:
    """What ``auto`` came to for a whole setting that it measures, why, and the times of what it chose from."""

    setting: str
    used: str
    reason: str
    times: list[BackendTimeRecord] = field(default_factory=list)


@part
class OpRecord:
    """One op: the backend asked for, the one that ran and what it is made of, why not a faster one, its checks."""

    op: str
    asked: str
    used: str
    reason: str | None = None
    detail: str | None = None
    verifications: list[VerificationRecord] = field(default_factory=list)
    times: list[BackendTimeRecord] = field(default_factory=list)
