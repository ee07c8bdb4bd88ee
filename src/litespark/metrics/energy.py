"""Amounts of energy as integers, with the device time that they rest on: what is summed, saved and carried on.

Millijoules, microseconds and tokens are integers, so that sums over ranks and resumes are exact. A sum with more than
one per cent of its device time missing is not a sum: it is reported as None, never as 0 and never as the part seen.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from operator import add, sub
from pathlib import Path
from typing import Literal, get_args

from litespark.metrics.records.base import parse, part

log = logging.getLogger(__name__)

Phase = Literal["train", "evaluate", "checkpoint", "idle", "reference", "rollout", "reward"]
WITHIN_A_STEP: frozenset[Phase] = frozenset({"rollout", "reward"})
"""Phases that lie between the micro-batches of a step."""
PHASES: tuple[Phase, ...] = get_args(Phase)
ACCOUNTS = (*PHASES, "lost")

# below this share of device time read, a sum is reported as not measured
MINIMUM_COVERAGE = 0.99


@part
class Account:
    """Energy of one phase and the device time it rests on."""

    millijoules: int = 0
    read_microseconds: int = 0
    used_microseconds: int = 0

    def __add__(self, other: "Account") -> "Account":
        return Account(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Account") -> "Account":
        return Account(*map(sub, astuple(self), astuple(other)))

    @property
    def coverage(self) -> float | None:
        """Device time read ÷ used; None where no device time passed."""
        return ratio(self.read_microseconds, self.used_microseconds)

    @property
    def joules(self) -> float | None:
        """Joules, or None where too much of the device time was not read."""
        if self.used_microseconds and self.read_microseconds < MINIMUM_COVERAGE * self.used_microseconds:
            return None
        return self.millijoules / 1000


@part
class EnergyTotals:
    """What one rank, or all of them together, used: one account a phase, and the tokens trained on meanwhile.

    ``lost`` holds what was burnt after the checkpoint that a resume went back to: it belongs to no surviving step, but
    it was paid for, so it is part of all-in.
    """

    train: Account = Account()
    evaluate: Account = Account()
    checkpoint: Account = Account()
    idle: Account = Account()
    reference: Account = Account()
    rollout: Account = Account()
    reward: Account = Account()
    lost: Account = Account()
    tokens: int = 0
    dropped_readings: int = 0

    def __add__(self, other: "EnergyTotals") -> "EnergyTotals":
        return EnergyTotals.from_vector(list(map(add, self.to_vector(), other.to_vector())))

    def __sub__(self, other: "EnergyTotals") -> "EnergyTotals":
        return EnergyTotals.from_vector(list(map(sub, self.to_vector(), other.to_vector())))

    @property
    def all_in(self) -> Account:
        total = Account()
        for name in ACCOUNTS:
            total += getattr(self, name)
        return total

    @property
    def coverage(self) -> float | None:
        return self.all_in.coverage

    def joules(self, phase: Phase) -> float | None:
        """Joules of one phase; None where it was not measured, 0 where the phase took no time on a meter that reads."""
        account: Account = getattr(self, phase)
        return account.joules if self.all_in.read_microseconds else None

    @property
    def train_joules(self) -> float | None:
        return self.joules("train")

    @property
    def learning_joules(self) -> float | None:
        """Of training steps, and of the rollouts and rewards that they learn from."""
        spent = [self.joules(phase) for phase in ("train", "rollout", "reward")]
        return None if None in spent else sum(filter(None, spent))

    @property
    def all_in_joules(self) -> float | None:
        return self.all_in.joules if self.all_in.read_microseconds else None

    @property
    def joules_per_token_train(self) -> float | None:
        return ratio(self.train_joules, self.tokens)

    @property
    def joules_per_token_all_in(self) -> float | None:
        return ratio(self.all_in_joules, self.tokens)

    @property
    def tokens_per_second_per_watt(self) -> float | None:
        """Tokens per joule of training, which is the same thing."""
        joules = self.train_joules
        return self.tokens / joules if joules else None

    def to_vector(self) -> list[int]:
        """All amounts in a fixed order, for a sum over ranks in int64."""
        amounts = [amount for name in ACCOUNTS for amount in astuple(getattr(self, name))]
        return [*amounts, self.tokens, self.dropped_readings]

    @classmethod
    def from_vector(cls, vector: Sequence[int]) -> "EnergyTotals":
        """The inverse of ``to_vector``."""
        *amounts, tokens, dropped = vector
        accounts = [Account(*three) for three in zip(*[iter(amounts)] * 3, strict=True)]
        return cls(**dict(zip(ACCOUNTS, accounts, strict=True)), tokens=tokens, dropped_readings=dropped)


class EnergyJournal:
    """A file at ``path``, which need not exist, of the combined totals of all ranks, one JSON line a window.

    A checkpoint has the joules of the steps it holds. What was burnt after it, and lost with the process, only this
    file has; at most the time since its last line is missing from the all-in sum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False

    def append(self, totals: EnergyTotals, time: str) -> None:
        """Add a line with the totals since the run began; a write that fails is logged once and stops no training."""
        try:
            with self.path.open("a") as stream:
                # the newline comes first: a process killed while writing leaves half a line
                stream.write("\n" + json.dumps({"time": time, "totals": asdict(totals)}))
        except OSError as error:
            if not self._failed:
                log.warning(
                    "cannot write the energy journal %s (%s): after a crash, the joules of lost steps will be "
                    "missing from the all-in sum",
                    self.path,
                    error,
                )
            self._failed = True

    def last(self) -> EnergyTotals | None:
        """The totals of the last whole line; None where there is none."""
        if not self.path.is_file():  # a pipe would never end
            return None
        for line in reversed(self.path.read_bytes().splitlines()):
            try:
                totals: EnergyTotals = parse(EnergyTotals, json.loads(line)["totals"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            return totals
        return None


def resumed_totals(checkpoint: EnergyTotals, journaled: EnergyTotals | None) -> EnergyTotals:
    """Where a resumed run starts: the checkpoint's phases, and in ``lost`` what the journal saw beyond them."""
    if journaled is None:
        return checkpoint
    beyond = journaled.all_in - checkpoint.all_in
    burnt = Account(*(max(0, amount) for amount in astuple(beyond)))
    dropped = max(checkpoint.dropped_readings, journaled.dropped_readings)
    return replace(checkpoint, lost=checkpoint.lost + burnt, dropped_readings=dropped)


def ratio(amount: float | None, count: float) -> float | None:
    """``amount`` ÷ ``count``, None where the amount is not known or nothing was counted."""
    return amount / count if amount is not None and count > 0 else None
