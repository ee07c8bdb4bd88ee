"""What the run record says of a target for the bits per byte: what was asked for, and what it took to get there."""

from dataclasses import dataclass


@dataclass
class ReachedRecord:
    """The first validation at or below the target.

    Seconds and train joules are those of training steps, without validation and checkpoints; all-in joules are of
    everything up to here. Joules are null where they were not measured.
    """

    step: int
    tokens: int
    bits_per_byte: float
    train_seconds: float
    train_joules: float | None = None
    all_in_joules: float | None = None


@dataclass
class TargetRecord:
    """The bits per byte at which the run was to end; ``reached`` is null where it has not got there."""

    bits_per_byte: float
    reached: ReachedRecord | None = None
