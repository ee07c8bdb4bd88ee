"""Chooses the backend of each op before the model is built, and verifies the fast ones on this device."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch

from litespark.device import device_of
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.ops.backend import AUTO, REFERENCE, Ops, OpsConfig, load, resolve
from litespark.ops.choice import Choice, decide, described
from litespark.ops.measuring import default_cache
from litespark.run.config import ConfigError, Parts
from litespark.run.precision import computes_with_ops
from litespark.run.preflight import Machine, idle_of, place_of
from litespark.run.record_ops import BackendTimeRecord, DifferenceRecord, OpRecord, VerificationRecord

log = logging.getLogger(__name__)


def choose_ops(parts: Parts, machine: Machine, before: Iterable[OpRecord] = ()) -> tuple[Ops, list[Choice]]:
    """The ops that a run computes with, and what was decided; a collective. A resume gives what it had `before`.

    A model that computes without them gets the references, and nothing is decided.
    """
    if not computes_with_ops(parts):
        return resolve(OpsConfig()), []
    device = machine.device
    here = device_of(device)
    # the run goes on with the random numbers that it would have without verifications and measurements
    with here.random_state_kept():
        ops, choices = decide(
            parts.ops,
            place_of(parts, device, machine.precision),
            machine.mesh,
            verifying=verifies(parts, device),
            cache=default_cache(),
            idle=idle_of(parts, machine.precision),
            before={op.op: op.used for op in before},
        )
        if isinstance(parts.model, HuggingFaceConfig):
            ops, choices = _tried(parts, machine, ops, choices)
    # what verifications and measurements allocated must not stand in the way of the model, nor count as its peak
    here.empty_cache()
    here.reset_peak()
    return ops, choices


def _tried(parts: Parts, machine: Machine, ops: Ops, choices: list[Choice]) -> tuple[Ops, list[Choice]]:
    """Without the ops that do not compute what layers of the model do; a ConfigError for one asked for by name."""
    from litespark.models.huggingface.trial import lost_ops  # transformers is not in every start

    model = parts.model
    assert isinstance(model, HuggingFaceConfig)
    if {choice.used for choice in choices} <= {REFERENCE}:
        return ops, choices
    asked = parts.ops.backends()
    using = {choice.op: choice for choice in choices}
    while lost := machine.mesh.from_first(partial(lost_ops, model, ops, machine.device), "layers to be tried"):
        for op, reason in lost.items():
            if asked[op] != AUTO:
                raise ConfigError(
                    f"ops.{op}: got {asked[op]}, which is {reason}; set ops.{op}={AUTO}, or {REFERENCE}, with which "
                    f"model={model.name} computes as transformers has it"
                )
            # of those that were measured, and so verified, the others
            left = {name: time for name, time in using[op].milliseconds.items() if name != using[op].used}
            used = min(left, key=lambda name: left[name], default=REFERENCE)
            if machine.mesh.is_first:
                log.warning("ops.%s: %s is %s; %s is used", op, using[op].used, reason, used)
            reasons = (*using[op].reasons, f"{using[op].used}: {reason}")
            using[op] = replace(using[op], used=used, reasons=reasons, milliseconds=left, detail=None)
            ops = replace(ops, **{op: load(op, used)})
    return ops, list(using.values())


def verifies(parts: Parts, device: torch.device) -> bool:
    """Whether fast kernels are verified before the first step."""
    asked = parts.callbacks.verify
    return asked == "always" or (asked == "auto" and device_of(device).is_accelerator)


def log_choices(choices: list[Choice], device: torch.device) -> None:
    """One line of what is used, and on a GPU why nothing faster: a CPU has none of the fast kernels."""
    if choices:
        log.info(described(choices, reasons=False))
    if device_of(device).is_accelerator:
        for reason in dict.fromkeys(reason for choice in choices for reason in choice.reasons):
            log.info("ops: %s", reason)


def op_record(choice: Choice) -> OpRecord:
    """What the run record keeps of a choice."""
    apart = "op", "differences", "without"
    return OpRecord(
        op=choice.op,
        asked=choice.asked,
        used=choice.used,
        reason="; ".join(choice.reasons) or None,
        detail=choice.detail,
        verifications=[
            VerificationRecord(
                **{key: value for key, value in vars(verification).items() if key not in apart},
                without=list(verification.without),
                passed=verification.passed,
                differences=[DifferenceRecord(it.tensor, it.distance, it.bound) for it in verification.differences],
            )
            for verification in choice.verifications
        ],
        times=[BackendTimeRecord(backend, time) for backend, time in choice.milliseconds.items()],
    )
