"""Decides which backend each op uses on this machine: the one asked for, or by `auto` the fastest that is right.

With `auto`, a GPU measures every backend that can run there and passes its verification, and keeps the answer in a
file; a CPU takes the first that can run, since timings of a shared CPU would make runs differ.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, takewhile
from pathlib import Path

from litespark.device import device_of
from litespark.mesh import Mesh
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, Ops, OpsConfig, detail, load, why_not
from litespark.ops.measuring import Remembered, facts_of, measure
from litespark.ops.shapes import Place
from litespark.ops.verification import Verification, failures, verify, verify_products

log = logging.getLogger(__name__)


class FailedVerificationError(ValueError):
    """A fast op differs from its reference on this device."""


@dataclass(frozen=True)
class Choice:
    """What became of one op."""

    op: str
    asked: str  # what the config names
    used: str  # the backend that runs
    reasons: tuple[str, ...] = ()  # why not those that were expected to be faster, one each
    verifications: tuple[Verification, ...] = ()  # of the backend used, and of those that failed
    # forward and backward of each backend that was measured
    milliseconds: dict[str, float] = field(default_factory=dict)
    detail: str | None = None  # what the backend used is made of here; None where there is nothing to say


def refusals(config: OpsConfig, place: Place, idle: frozenset[str] = frozenset()) -> list[str]:
    """What is asked for by name and cannot run there, one message each; not of `idle` ops, which do not run at all."""
    refusals = []
    for op, asked in config.backends().items():
        if op in idle or asked == AUTO:
            continue
        if (reason := _cannot(op, asked, place)) is not None:
            others = [name for name in BACKENDS[op] if reason_against(op, name, place) is None]
            refusals.append(
                f"ops.{op}: got {asked}, which cannot run here: {reason}; expected one that can: "
                f"{', '.join(others)}, or {AUTO}, which takes the fastest of them"
            )
    return refusals


def _cannot(op: str, name: str, place: Place) -> str | None:
    if place.cuda_graph and op == "attention":
        if name == "flex":
            return "with ops.cuda_graph=true nothing is compiled"
        if name == "varlen" and place.shapes.documents:
            return "the number of documents differs from batch to batch, which no CUDA graph can hold"
    if place.softcap and op == "attention" and not BACKENDS[op][name].softcap:
        return "it has no soft cap"
    if place.branches and op == "attention" and not BACKENDS[op][name].branches:
        return "it has no branches of documents, which data.share_prompts=true makes"
    return why_not(op, name, place.device, place.dtype, place.shapes)


def reason_against(op: str, name: str, place: Place) -> str | None:
    """Why a backend gives no speed there: it cannot run, or only in Triton's interpreter."""
    if (reason := _cannot(op, name, place)) is not None:
        return reason
    if not device_of(place.device).is_accelerator and name.startswith("triton"):
        return "Triton's interpreter is for tests"
    return None


def decide(
    config: OpsConfig,
    place: Place,
    mesh: Mesh,
    *,
    verifying: bool,
    cache: Path | None = None,
    idle: frozenset[str] = frozenset(),
    before: Mapping[str, str] | None = None,
) -> tuple[Ops, list[Choice]]:
    """The function of every op, and what was decided; a collective.

    Args:
        config, place: what is asked for, and where it runs.
        mesh: the ranks of the run.
        verifying: verify the backends that are used. Those that `auto` measures are verified in any case.
        cache: file that keeps what `auto` measured.
        idle: ops that the run does not compute with: neither measured nor verified, and not among the choices.
        before: op -> the backend that an interrupted run used; `auto` stays with it, since another rounds differently.

    Raises:
        ValueError: an op asked for by name cannot run here.
        FailedVerificationError: it is wrong, and `on_failed_verification` is "stop"; or products of fp8 are wrong.
    """
    if refused := refusals(config, place, idle):
        raise ValueError("\n".join(refused))
    choices = []
    for op, asked in config.backends().items():
        if op in idle:
            continue
        choose = partial(_choose, op, place, cache, (before or {}).get(op))
        choice = _decide(op, asked, config.on_failed_verification, place, verifying, mesh, choose)
        if op == "fp8" and verifying:
            choice = replace(choice, verifications=(*choice.verifications, *_verified_products(place, mesh)))
        choices.append(replace(choice, detail=detail(op, choice.used, place)))
    functions = {choice.op: load(choice.op, choice.used) for choice in choices}
    return Ops(**functions, **{op: load(op, REFERENCE) for op in idle}), choices


def described(choices: list[Choice], *, reasons: bool) -> str:
    """One line: what runs instead of the references, by backend, and on request why not something faster."""
    by_backend: dict[str, list[str]] = {}
    for choice in choices:
        if choice.used != REFERENCE:
            named = choice.op if choice.detail is None else f"{choice.op} ({choice.detail})"
            by_backend.setdefault(choice.used, []).append(named)
    used = ", ".join(f"{backend} {'+'.join(ops)}" for backend, ops in by_backend.items())
    why = dict.fromkeys(reason for choice in choices for reason in choice.reasons) if reasons else ()
    return "ops: " + "; ".join([used or "all reference", *why])


def _decide(
    op: str,
    asked: str,
    on_failure: str,
    place: Place,
    verifying: bool,
    mesh: Mesh,
    choose: Callable[[frozenset[str]], Choice],
) -> Choice:
    failed: dict[str, list[Verification]] = {}
    while True:
        # the same on all ranks: what failed is agreed on, and what is chosen comes from the first
        choice = Choice(op, asked, asked)
        if asked == AUTO:
            choice = mesh.from_first(partial(choose, frozenset(failed)), "the backends of the ops to be chosen")
        choice = replace(choice, verifications=(*chain(*failed.values()), *choice.verifications))
        if choice.used == REFERENCE or not verifying:
            return choice
        verifications = verify(op, choice.used, place)
        checked = replace(choice, verifications=(*choice.verifications, *verifications))
        if mesh.all(bool(verifications) and not failures(verifications)):
            return checked
        what = _what_failed(verifications)
        if asked == AUTO:
            log.error("VERIFICATION FAILED: auto does not take ops.%s=%s. %s", op, choice.used, what)
            failed[choice.used] = verifications
            continue
        if on_failure == "stop":
            raise FailedVerificationError(
                f"ops.{op}: got {choice.used}, whose verification failed on this device, expected the reference's "
                f"results. Set ops.{op}={REFERENCE}, or ops.on_failed_verification=fallback to do so by itself.\n{what}"
            )
        log.error(
            "VERIFICATION FAILED: ops.%s=%s is replaced by its reference, which is slower. %s", op, choice.used, what
        )
        return replace(checked, used=REFERENCE, reasons=(*choice.reasons, _failed(op, choice.used)))


def _verified_products(place: Place, mesh: Mesh) -> list[Verification]:
    verifications = verify_products(place)
    if not mesh.all(not failures(verifications)):
        raise FailedVerificationError(
            "precision=fp8: got products of this device's fp8 units that failed their verification, expected those of "
            "the same codes in fp32. Set precision=bf16, or another version of PyTorch.\n"
            f"{_what_failed(verifications)}"
        )
    return verifications


def _what_failed(verifications: list[Verification]) -> str:
    return "\n".join(map(str, failures(verifications))) or "it failed on another rank"


def _failed(op: str, backend: str) -> str:
    return f"not {backend} for {op}: its verification failed"


def _choose(op: str, place: Place, cache: Path | None, before: str | None, without: frozenset[str]) -> Choice:
    """What `auto` takes; `before` is what an interrupted run used, `without` failed its verification on some rank."""
    against = {name: reason_against(op, name, place) for name in BACKENDS[op]}
    because = {name: f"not {name}: {reason}" for name, reason in against.items() if reason is not None}
    because |= {name: _failed(op, name) for name in without}
    able = [name for name in against if name not in because]
    if before in able:
        return Choice(op, AUTO, before, ("as before the resume",))
    # without scales that are known nothing casts on its way: then the pieces of fp8 differ in nothing
    alike = op == "fp8" and place.fp8 is not None and place.fp8.recipe != "delayed"
    if not device_of(place.device).is_accelerator or able == [REFERENCE] or alike:
        # only what stands before the one taken would have been expected to be faster
        earlier = takewhile(lambda name: name != able[0], against)
        return Choice(op, AUTO, able[0], tuple(because[name] for name in earlier))
    remembered = None if cache is None else Remembered(cache, place.device, facts_of(op, place))
    if remembered is not None and without:
        remembered.write({})
    times = {} if remembered is None else remembered.read()
    failed: list[Verification] = []
    if not times or not times.keys() <= set(able):
        failed = failures([trial for name in able if name != REFERENCE for trial in verify(op, name, place)])
        for verification in failed:
            log.warning("auto does not take %s", verification)
            because[verification.backend] = _failed(op, verification.backend)
        times = measure(op, [name for name in able if name not in because], place)
        if remembered is not None and not failed and not without:  # a failure is shown again until it is mended
            remembered.write(times)
    unable = {name: f"not {name} for {op}: it could not run at the sizes of this run" for name in against}
    reasons = tuple(because.get(name, unable[name]) for name in against if name not in times)
    used = min(times, key=times.__getitem__, default=REFERENCE)
    return Choice(op, AUTO, used, reasons, tuple(failed), times)
