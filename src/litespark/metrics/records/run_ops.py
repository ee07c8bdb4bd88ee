"""What the run record says of each op: the backend that ran, why, and the errors of its verification."""

from dataclasses import dataclass, field


@dataclass
class DifferenceRecord:
    """One output or gradient against the fp32 reference: ‖difference‖ / ‖reference‖; null where it was not finite."""

    tensor: str
    distance: float | None
    bound: float


@dataclass
class VerificationRecord:
    """One case of one backend beside its reference; ``interpreted`` runs show arithmetic, not the compiled kernel."""

    backend: str
    case: str
    sizes: str
    dtype: str
    interpreted: bool
    seconds: float
    passed: bool
    differences: list[DifferenceRecord] = field(default_factory=list)
    error: str | None = None


@dataclass
class BackendTimeRecord:
    """Forward and backward of one backend, as ``auto`` measured it."""

    backend: str
    milliseconds: float


@dataclass
class OpRecord:
    """One op: the backend asked for, the one that ran and what it is made of, why not a faster one, its checks."""

    op: str
    asked: str
    used: str
    reason: str | None = None
    detail: str | None = None
    verifications: list[VerificationRecord] = field(default_factory=list)
    times: list[BackendTimeRecord] = field(default_factory=list)
