"""Proves the ops of a config on this device without training: what `litespark prove` runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from omegaconf import DictConfig

from litespark.device import device_of, find
from litespark.ops import triton_support
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, why_not
from litespark.ops.proof import Proof, prove, prove_products
from litespark.ops.shapes import Place


def prove_all(config: DictConfig, say: Callable[[str], None]) -> bool:
    """Prove every fast backend that the config asks for; with `auto`, all that can run here.

    With precision=fp8 the pieces of fp8 are among them, without a GPU too, and the products of a GPU's fp8 units.

    Args:
        config: of the run.
        say: gets one line for each proof, each backend that cannot run, and the verdict.

    Returns:
        Whether all proofs passed and there was one for every op that is not asked to be its reference.

    Raises:
        ConfigError: the config is not usable, or the device cannot compute in the precision asked for.
    """
    device = find("cpu" if config.trainer.accelerator == "cpu" else "auto")
    on_gpu = device.type != "cpu"
    if not on_gpu:
        triton_support.enable_interpreter()
    # only now: Lightning imports Triton, which reads its mode then
    from litespark.experiment.config import ConfigError, parts_from
    from litespark.experiment.precision import precision_of
    from litespark.experiment.preflight import place_of

    parts = parts_from(config)
    if not on_gpu:
        say("no GPU: Triton's interpreter runs the kernels, at small sizes; compiled kernels are not proven here")
    else:
        say(f"on {device_of(device).name}, at the widths and lengths of {parts.model.name}")
    if parts.precision == "fp8" and not on_gpu:
        # as on a GPU, where what is not in fp8 is in bf16; that no CPU has fp8 units is no matter here
        in_fp8, place = True, place_of(parts, device, "bf16")
    else:
        precision = precision_of(parts, device)
        in_fp8, place = precision == "fp8", place_of(parts, device, precision)
    fp8 = parts.fp8 if in_fp8 else None
    place = replace(place, shapes=replace(place.shapes, documents=True), fp8=fp8)
    used = {op: name for op, name in parts.ops.backends().items() if in_fp8 or op != "fp8"}
    asked = {op: name for op, name in used.items() if name != REFERENCE}
    if not asked:
        raise ConfigError(
            "ops: got the reference for every op that this run computes with, expected a fast one to prove; choose "
            "ops=litespark" + ("" if in_fp8 else ", or precision=fp8 for the pieces of fp8")
        )
    # all are run, so that one look shows everything that is wrong
    right = [_prove_op(op, name, place, say) for op, name in asked.items()]
    failed = len(right) - sum(right)
    say(f"FAILED: {failed} of {len(asked)} ops" if failed else f"{len(asked)} of {len(asked)} ops proven")
    return all(right)


def _prove_op(op: str, asked: str, place: Place, say: Callable[[str], None]) -> bool:
    backends = [name for name in BACKENDS[op] if name != REFERENCE] if asked == AUTO else [asked]
    proofs = []
    for backend in backends:
        reason = why_not(op, backend, place.device, place.dtype, place.shapes)
        if reason is not None:
            say(f"{op}={backend}: cannot run here: {reason}")
            continue
        proofs += _said(
            prove(op, backend, place.shapes, place.device, place.dtype, autocast=place.autocast, fp8=place.fp8), say
        )
    if not proofs:
        what = "resolves to its reference" if asked == AUTO else "cannot run"
        say(f"{op}: FAILED, ops.{op}={asked} {what} here, so nothing was proven")
    right = bool(proofs) and all(proof.passed for proof in proofs)
    if op == "fp8":
        products = _said(prove_products(place.shapes, place.device, place.dtype, place.fp8), say)
        right = right and all(proof.passed for proof in products)
    return right


def _said(proofs: list[Proof], say: Callable[[str], None]) -> list[Proof]:
    for proof in proofs:
        say(str(proof))
    return proofs
