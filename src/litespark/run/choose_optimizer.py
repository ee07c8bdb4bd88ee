"""Chooses the kernel of fused AdamW before the model is built, and verifies Triton's on this device."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from litespark.device import device_of
from litespark.ops.choice import Choice, FailedVerificationError
from litespark.ops.verification import Verification, failures, verify_adamw
from litespark.run.choose_ops import verifies
from litespark.run.config import ConfigError, Parts
from litespark.run.preflight import Machine
from litespark.run.record_ops import OpRecord
from litespark.training.optim.adamw import AdamWKernel, takes_triton, why_not_triton

log = logging.getLogger(__name__)


def choose_adamw(parts: Parts, machine: Machine, before: Iterable[OpRecord] = ()) -> tuple[Parts, list[Choice]]:
    """The parts with the kernel that the run takes, and what was decided; a collective.

    Where nothing was decided there is no choice: PyTorch's was asked for, or there is a CPU only. A resume gives what
    the run had `before`.
    """
    asked, device = parts.optim.adamw_kernel, machine.device
    reason = why_not_triton(device, asked)
    if asked == "triton" and reason is not None:
        raise ConfigError(f"optim.adamw_kernel: got triton, which cannot run here: {reason}; expected auto or torch")
    if not takes_triton(parts.optim) or (reason is not None and not device_of(device).is_accelerator):
        return parts, []
    if asked == "auto" and any(op.op == "adamw" and op.used == "torch" for op in before):
        reason = "as before the resume"
    verifications: list[Verification] = []
    if reason is None and verifies(parts, device):
        with device_of(device).random_state_kept():
            verifications = verify_adamw(device)
        if not machine.mesh.all(not failures(verifications)):
            reason = "its verification failed"
            what = "\n".join(map(str, failures(verifications))) or "it failed on another rank"
            if asked == "triton" and parts.ops.on_failed_verification == "stop":
                raise FailedVerificationError(
                    "optim.adamw_kernel: got triton, whose verification failed on this device, expected the updates of "
                    f"PyTorch's. Set optim.adamw_kernel=torch, or ops.on_failed_verification=fallback.\n{what}"
                )
            log.error("VERIFICATION FAILED: AdamW is PyTorch's, which writes gradients back. %s", what)
    used: AdamWKernel = "triton" if reason is None else "torch"
    reasons = () if reason is None else (f"not triton for adamw: {reason}",)
    choice = Choice("adamw", asked, used, reasons, tuple(verifications))
    return replace(parts, optim=replace(parts.optim, adamw_kernel=used)), [choice]
