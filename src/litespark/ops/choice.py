"""Decides which backend each op uses on this machine: the one asked for, or by `auto` the fastest that is right.

An op asked for by name runs with that backend or not at all. With `auto`, a GPU measures every backend that can run
there and passes its verification, forward and backward at the run's own sizes, and keeps the answer in a cache
file; elsewhere the first of the backends' order that can run is taken, since timings of a shared CPU would make runs
differ. So are the pieces of fp8, which are several functions and are slow but where they are fused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, Ops, OpsConfig, detail, load, why_not
from litespark.ops.measuring import Remembered, measure
from litespark.ops.shapes import Place
from litespark.ops.verification import Verification, verify, verify_products

log = logging.getLogger(__name__)

T = TypeVar("T")

# ops of which `auto` takes the first backend that can run and is right, on a GPU too
UNMEASURED = frozenset({"fp8"})


class FailedVerificationError(ValueError):
    """A fast op differs from its reference on this device."""


class Agreement(Protocol):
    """What several processes have to agree on."""

    def from_first(self, make: Callable[[], T], doing: str) -> T:
        """What `make` returns on rank 0, on every rank; the others wait for `doing`."""
        ...

    def all(self, value: bool) -> bool:
        """Whether it is true on every rank."""
        ...


class OneRank:
    """A process alone."""

    def from_first(self, make: Callable[[], T], doing: str) -> T:
        return make()

    def all(self, value: bool) -> bool:
        return value


@dataclass(frozen=True)
class Choice:
    """What became of one op."""

    op: str  # its name
    asked: str  # what the config names
    used: str  # the backend that runs
    reasons: tuple[str, ...] = ()  # why not those that were expected to be faster, one each
    verifications: tuple[Verification, ...] = ()  # of the backend used, and of those that failed
    # forward and backward of each backend that was measured
    milliseconds: dict[str, float] = field(default_factory=dict)
    detail: str | None = None  # what the backend used is made of here; None where there is nothing to say


def refusals(config: OpsConfig, place: Place, idle: frozenset[str] = frozenset()) -> list[str]:
    """What is asked for by name and cannot run there, one message each; not of `idle` ops, which do not run at all."""
    found = []
    for op, asked in config.backends().items():
        if op in idle or asked == AUTO:
            continue
        if (reason := why_not(op, asked, place.device, place.dtype, place.shapes)) is not None:
            others = [name for name in BACKENDS[op] if reason_against(op, name, place) is None]
            found.append(
                f"ops.{op}: got {asked}, which cannot run here: {reason}; expected one that can: "
                f"{', '.join(others)}, or {AUTO}, which takes the fastest of them"
            )
    return found


def decide(
    config: OpsConfig,
    place: Place,
    *,
    verifying: bool,
    ranks: Agreement | None = None,
    cache: Path | None = None,
    idle: frozenset[str] = frozenset(),
    before: Mapping[str, str] | None = None,
) -> tuple[Ops, list[Choice]]:
    """The function of every op, and what was decided; a collective.

    Args:
        config: what is asked for.
        place: device, dtype and sizes of the run.
        verifying: verify the backends that are used. Those that `auto` measures are verified in any case.
        ranks: the processes of the run; None: this one alone.
        cache: file that keeps what `auto` measured; None: no file.
        idle: ops that the run does not compute with. They are neither measured nor verified, and not among the choices.
        before: op -> the backend that this run used until it was interrupted; `auto` stays with it where it can run,
            since another one rounds differently.

    Raises:
        ValueError: an op asked for by name cannot run here.
        FailedVerificationError: an op asked for by name is wrong, and `on_failed_verification` is "stop"; or the
            products of fp8 are wrong on this device, which no backend of ours replaces.
    """
    if refused := refusals(config, place, idle):
        raise ValueError("\n".join(refused))
    ranks = ranks or OneRank()
    choices = []
    for op, asked in config.backends().items():
        if op in idle:
            continue
        choose = partial(_choose, op, place, cache, (before or {}).get(op))
        choice = _decide(op, asked, config, place, verifying, ranks, choose)
        if op == "fp8" and verifying:
            choice = replace(choice, verifications=(*choice.verifications, *_verified_products(place, ranks)))
        choices.append(replace(choice, detail=detail(op, choice.used, place)))
    functions = {choice.op: load(choice.op, choice.used) for choice in choices}
    return Ops(**functions, **{op: load(op, REFERENCE) for op in idle}), choices


def described(choices: list[Choice]) -> str:
    """One line: what runs, and why not something faster."""
    used = ", ".join(
        f"{choice.op} {choice.used}" + (f" ({choice.detail})" if choice.detail else "") for choice in choices
    )
    reasons = dict.fromkeys(reason for choice in choices for reason in choice.reasons)
    return "ops: " + "; ".join([used, *reasons])


def in_short(choices: list[Choice]) -> str:
    """What runs instead of the references, by backend, in one short line."""
    by_backend: dict[str, list[str]] = {}
    for choice in choices:
        if choice.used != REFERENCE:
            by_backend.setdefault(choice.used, []).append(choice.op)
    used = ", ".join(f"{backend} {'+'.join(ops)}" for backend, ops in by_backend.items())
    return f"ops: {used or 'all reference'}"


def _decide(
    op: str,
    asked: str,
    config: OpsConfig,
    place: Place,
    verifying: bool,
    ranks: Agreement,
    choose: Callable[[frozenset[str]], Choice],
) -> Choice:
    failed: dict[str, list[Verification]] = {}
    while True:
        # the same on all ranks: what failed is agreed on, and what is chosen comes from the first
        without = frozenset(failed)
        choice = Choice(op, asked, asked)
        if asked == AUTO:
            choice = ranks.from_first(partial(choose, without), "the backends of the ops to be chosen")
        shown = [verification for verifications in failed.values() for verification in verifications]
        choice = replace(choice, verifications=(*shown, *choice.verifications))
        if choice.used == REFERENCE or not verifying:
            return choice
        verifications = verify(
            op, choice.used, place.shapes, place.device, place.dtype, autocast=place.autocast, fp8=place.fp8
        )
        if ranks.all(bool(verifications) and all(verification.passed for verification in verifications)):
            return replace(choice, verifications=(*choice.verifications, *verifications))
        failures = (
            "\n".join(str(verification) for verification in verifications if not verification.passed)
            or "it failed on another rank"
        )
        if asked == AUTO:
            log.error("VERIFICATION FAILED: auto does not take ops.%s=%s. %s", op, choice.used, failures)
            failed[choice.used] = verifications
            continue
        if config.on_failed_verification == "stop":
            raise FailedVerificationError(
                f"ops.{op}: got {choice.used}, whose verification failed on this device, expected results as the "
                f"reference has them. Set ops.{op}={REFERENCE}, or ops.on_failed_verification=fallback to do so by "
                f"itself.\n{failures}"
            )
        log.error(
            "VERIFICATION FAILED: ops.%s=%s is replaced by its reference, which is slower. %s",
            op,
            choice.used,
            failures,
        )
        reasons = (*choice.reasons, _failed(op, choice.used))
        return replace(choice, used=REFERENCE, reasons=reasons, verifications=(*choice.verifications, *verifications))


def _verified_products(place: Place, ranks: Agreement) -> list[Verification]:
    verifications = verify_products(place.shapes, place.device, place.dtype, place.fp8)
    if not ranks.all(all(verification.passed for verification in verifications)):
        failures = (
            "\n".join(str(verification) for verification in verifications if not verification.passed)
            or "it failed on another rank"
        )
        raise FailedVerificationError(
            "precision=fp8: got products of this device's fp8 units that failed their verification, expected those of "
            f"the same codes in fp32. Set precision=bf16, or another version of PyTorch.\n{failures}"
        )
    return verifications


def _failed(op: str, backend: str) -> str:
    return f"not {backend} for {op}: its verification failed"


def _choose(op: str, place: Place, cache: Path | None, before: str | None, without: frozenset[str]) -> Choice:
    """What `auto` takes at `place`; on a GPU what was measured before, or a measurement of what is right.

    Args:
        before: what an interrupted run used, or None.
        without: backends whose verification failed on one of the ranks.
    """
    against = {name: reason_against(op, name, place) for name in BACKENDS[op]}
    able = [name for name, reason in against.items() if reason is None and name not in without]
    because = {name: f"not {name}: {reason}" for name, reason in against.items() if reason is not None}
    because |= {name: _failed(op, name) for name in without}
    if before in able:
        return Choice(op, AUTO, before, ("as before the resume",))
    # in the order of the backends: only what stands before the one taken would have been expected to be faster
    if place.device.type == "cpu" or able == [REFERENCE] or op in UNMEASURED:
        earlier = list(against)[: list(against).index(able[0])]
        return Choice(op, AUTO, able[0], tuple(because[name] for name in earlier))
    unable = tuple(because[name] for name in against if name in because)
    remembered = None if cache is None else Remembered(cache, op, place)
    if remembered is not None and without:
        remembered.forget()
    elif remembered is not None and (times := remembered.read()) is not None and times.keys() <= set(able):
        reasons = (*unable, *_left_out(op, able, times))
        return Choice(op, AUTO, min(times, key=times.__getitem__), reasons, milliseconds=times)
    failed: list[Verification] = []
    right = []
    for name in able:
        verifications = [] if name == REFERENCE else verify(
            op, name, place.shapes, place.device, place.dtype, autocast=place.autocast
        )  # fmt: skip
        wrong = [verification for verification in verifications if not verification.passed]
        for verification in wrong:
            log.warning("auto does not take %s", verification)
        failed += wrong
        if not wrong:
            right.append(name)
    times = measure(op, right, place)
    used = min(times, key=times.__getitem__) if times else REFERENCE
    if remembered is not None and times and not failed and not without:  # a failure is shown again until it is mended
        remembered.write(times)
    wrong_ones = dict.fromkeys(verification.backend for verification in failed)
    reasons = (*unable, *(_failed(op, name) for name in wrong_ones), *_left_out(op, right, times))
    return Choice(op, AUTO, used, reasons, tuple(failed), times)


def _left_out(op: str, able: list[str], times: dict[str, float]) -> list[str]:
    return [f"not {name} for {op}: it could not run at the sizes of this run" for name in able if name not in times]


def reason_against(op: str, name: str, place: Place) -> str | None:
    """Why nobody who wants speed would take a backend there: it cannot run, or only in Triton's interpreter."""
    if (reason := why_not(op, name, place.device, place.dtype, place.shapes)) is not None:
        return reason
    if place.device.type == "cpu" and name.startswith("triton"):
        return "Triton's interpreter is for tests"
    return None
