"""Verifies the ops of a config on this device without training: what `litespark verify` runs."""

from collections.abc import Callable
from dataclasses import replace

from omegaconf import DictConfig

from litespark.device import device_of, find
from litespark.ops import triton_support
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, why_not
from litespark.ops.shapes import Place
from litespark.ops.verification import Verification, failures, verify, verify_adamw, verify_products


def verify_all(config: DictConfig, say: Callable[[str], None]) -> bool:
    """Verify every fast backend that the config asks for; with `auto`, all that can run here.

    With precision=fp8 the pieces of fp8 are among them, without a GPU too, and the products of a GPU's fp8 units.
    """
    device = find("cpu" if config.trainer.accelerator == "cpu" else "auto")
    on_gpu = device_of(device).is_accelerator
    if not on_gpu:
        triton_support.enable_interpreter()
    # only now: Lightning imports Triton, which reads its mode then
    from litespark.models.spec import ops_without_a_layer
    from litespark.run.config import ConfigError, parts_from
    from litespark.run.measured_precision import precision_of
    from litespark.run.preflight import place_of
    from litespark.training.optim.adamw import takes_triton, why_not_triton

    parts = parts_from(config)
    if not on_gpu:
        say("no GPU: Triton's interpreter runs the kernels, at small sizes; compiled kernels are not verified here")
    else:
        say(f"on {device_of(device).name}, at the widths of {parts.model.name}")
    if parts.precision == "fp8" and not on_gpu:
        # as on a GPU, where what is not in fp8 is in bf16; that no CPU has fp8 units is no matter here
        in_fp8, place = True, place_of(parts, device, "bf16")
    else:
        precision = precision_of(parts, device)
        in_fp8, place = precision == "fp8", place_of(parts, device, precision)
    fp8 = parts.fp8 if in_fp8 else None
    place = replace(place, shapes=replace(place.shapes, documents=True), fp8=fp8)
    backends = parts.ops.backends().items()
    idle = ops_without_a_layer(parts.model)
    asked = {op: name for op, name in backends if name != REFERENCE and (in_fp8 or op != "fp8") and op not in idle}
    if not asked:
        raise ConfigError(
            "ops: got the reference for every op that this run computes with, expected a fast one to verify; choose "
            "ops=litespark" + ("" if in_fp8 else ", or precision=fp8 for the pieces of fp8")
        )
    # all are run, so that one look shows everything that is wrong
    right = [_verify_op(op, name, place, say) for op, name in asked.items()]
    if why_not_triton(device, "triton") is None and takes_triton(parts.optim):
        right.append(_all_right(verify_adamw(device), say))
    failed = len(right) - sum(right)
    say(f"FAILED: {failed} of {len(right)} ops" if failed else f"{len(right)} of {len(right)} ops verified")
    return all(right)


def _verify_op(op: str, asked: str, place: Place, say: Callable[[str], None]) -> bool:
    backends = [name for name in BACKENDS[op] if name != REFERENCE] if asked == AUTO else [asked]
    verifications: list[Verification] = []
    for backend in backends:
        reason = why_not(op, backend, place.device, place.dtype, place.shapes)
        if reason is not None:
            say(f"{op}={backend}: cannot run here: {reason}")
            continue
        verifications += verify(op, backend, place)
    if not verifications:
        what = "resolves to its reference" if asked == AUTO else "cannot run"
        say(f"{op}: FAILED, ops.{op}={asked} {what} here, so nothing was verified")
        return False
    return _all_right([*verifications, *(verify_products(place) if op == "fp8" else [])], say)


def _all_right(verifications: list[Verification], say: Callable[[str], None]) -> bool:
    for verification in verifications:
        say(str(verification))
    return not failures(verifications)
