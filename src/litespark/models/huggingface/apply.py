"""`litespark.apply(model)`: our ops in an instance of a transformers causal LM, and what came of it."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from litespark.device import device_of
from litespark.mesh import Mesh
from litespark.models.huggingface import attention, fp8, layers
from litespark.models.huggingface.applied import OP_OF, Applied, Module, complain, outcome
from litespark.models.huggingface.asked import (
    BEFORE,
    IDLE,
    check,
    config_of,
    fp8_of,
    in_python,
    inside,
    place_of,
    why_unexpected,
)
from litespark.models.huggingface.layers import Row
from litespark.models.huggingface.probing import Call, Probe, probe
from litespark.models.huggingface.table import FAMILIES, Family, Mlp, Norm
from litespark.ops.backend import REFERENCE, Ops, OpsConfig
from litespark.ops.choice import decide
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.measuring import default_cache

_AS_IT_WAS = "its backend is the reference, by name or since nothing faster can run here"


def apply(
    model: nn.Module,
    ops: str | Mapping[str, str] = "litespark",
    *,
    sequences: int = 1,
    length: int | None = None,
    autocast: torch.dtype | None = None,
    precision: str | Fp8Config | None = None,
    verify: bool = False,
    **others: object,
) -> Applied:
    """Let an instance of a transformers causal LM compute with our ops; `remove` undoes it.

    Args:
        model: random or pretrained, on its device; of a PEFT model the one inside. Other instances stay as they are.
        ops: "litespark" for the fastest of each op that can run here, or op -> backend, {"attention": "sdpa"}, for some
            ops and the fastest of the others. Layers of an op that is "reference" are left alone.
        sequences, length: of a micro-batch, by which a GPU measures the backends; length None: the longest of the
            model, 4096 at most.
        autocast: the dtype of autocast, if the model will run under it.
        precision: "fp8", or an `Fp8Config` for other settings than its own, to multiply in fp8 in the linear layers of
            attention and MLPs while the model trains. Scales are renewed after each step of an optimizer of PyTorch.
        verify: verify each op on this device, and the loss and every gradient of the whole model before it is in fp8.

    Raises:
        TypeError: there is no such argument.
        ValueError: this cannot be done to the model, nothing was replaced, or not what was asked for by name. The model
            is then as it was.
    """
    from litespark.models.huggingface.verification import gradients_of, why_apart

    if others:
        raise TypeError(why_unexpected(others))
    whole = inside(model)
    check(whole)
    config = config_of(ops)
    low = fp8_of(precision, whole.device)
    place = replace(place_of(whole, sequences, length, autocast), fp8=low)
    idle = IDLE if low is None else IDLE - {"fp8"}
    try:
        with device_of(place.device).random_state_kept():
            chosen, choices = decide(config, place, Mesh(), verifying=verify, cache=default_cache(), idle=idle)
    except ValueError as error:
        error.args = (in_python(str(error)),)
        raise
    before = gradients_of(whole, place) if verify else None
    modules = apply_ops(whole, chosen, {choice.op: choice.used for choice in choices}, asked=config)
    try:
        if before is not None and (wrong := why_apart(whole, place, before)):
            raise ValueError(f"litespark.apply: got {wrong}, expected the loss and gradients of the model as it was")
        if low is not None:
            backend = next(choice.used for choice in choices if choice.op == "fp8")
            modules = _multiply_in_fp8(whole, low, chosen.fp8, backend, modules)
    except BaseException:
        remove(whole)
        raise
    return Applied(tuple(modules), tuple(choices))


def remove(model: nn.Module) -> None:
    """Undo `apply`; ValueError where it was not applied, or the model was sharded since."""
    whole = inside(model)
    if BEFORE not in vars(whole):
        raise ValueError(f"litespark.remove: got a {type(whole).__name__} that litespark.apply was not applied to")
    replaced = [module for module in whole.modules() if layers.is_replaced(module)]
    if any(not hasattr(type(module), "replaces") or "replaces" not in vars(type(module)) for module in replaced):
        raise ValueError(
            "litespark.remove: got layers of other classes than litespark.apply made, as of a model that was sharded "
            "since; build it anew without litespark.apply"
        )
    for module in replaced:
        layers.take_out(module)
    if (renewal := vars(whole).pop("litespark_fp8", None)) is not None:
        renewal.close()
    _set_attention(whole, vars(whole).pop(BEFORE))


def apply_ops(
    model: Any, ops: Ops, used: Mapping[str, str], *, asked: OpsConfig | None = None, probing: bool = True
) -> list[Module]:
    """Replace what the table names in `model` by `ops`, whose backends are called as `used` says.

    With `probing` the model computes a few tokens before and after, and so does each kind of layer: what differs is put
    back. A model on meta cannot, and takes the table's word.
    """
    family = family_of(model)
    rows = {module: row for module in model.modules() if (row := _row(family, _known(family, module))) is not None}
    seen = probe(model, {type(module).__name__ for module in rows}) if probing else None
    reasons = {
        module: reason
        for module, row in rows.items()
        if (reason := _why_not(module, _known(family, module), row, used)) is not None
    }
    device = None if seen is None else model.device.type
    vars(model)[BEFORE] = model.config._attn_implementation
    _own_config(model)
    try:
        for module, row in rows.items():
            if module not in reasons:
                layers.put_in(module, row, ops, device)
        layers.link(model)
        if seen is not None:
            _take_out_what_differs(seen, rows, reasons)
        attending = _switch_attention(model, used["attention"], seen)
        # of each kind of layer only the first was tried
        if seen is not None and (reason := seen.difference_of_logits()) is not None:
            raise ValueError(
                f"litespark.apply: got another model than before: {reason}; set the ops of the layers that differ to "
                '"reference", one after the other'
            )
        done = [
            outcome(name, module, rows.get(module), reasons.get(module), used, attending)
            for name, module in model.named_modules()
            if module in rows or module in attending or any(True for _ in module.parameters(recurse=False))
        ]
        complain(done, asked or OpsConfig())
    except BaseException:
        remove(model)
        raise
    return done


def ops_of(model: Any) -> set[str]:
    """The ops that the table has a place for in a model, which need not be tried: none for a family outside of it."""
    family = family_of(model)
    if not family.model_type:
        return set()
    rows = (_row(family, _known(family, module)) for module in model.modules())
    attends = {"attention"} if model._can_set_attn_implementation() else set()
    return attends | {OP_OF[type(row)] for row in rows if row is not None}


def family_of(model: Any) -> Family:
    """The row of the table; of a family that is not in it, its attention and its RMSNorms."""
    unknown = Family("", "", None, None, None, None, None)
    return FAMILIES.get(model.config.get_text_config().model_type, unknown)


def _known(family: Family, module: nn.Module) -> type | None:
    """The class of a module, or that which it is a subclass of, for which there is a row."""
    return next((kind for kind in type(module).__mro__ if _row(family, kind) is not None), None)


def _row(family: Family, kind: Any) -> Row | None:
    if kind is None or not kind.__module__.startswith("transformers.models."):
        return None
    norm = family.prefix == "" and kind.__name__.endswith("RMSNorm")
    return Norm() if norm and len(inspect.signature(kind.forward).parameters) == 2 else family.rows().get(kind.__name__)


def _why_not(module: Any, kind: Any, row: Row, used: Mapping[str, str]) -> str | None:
    op = OP_OF[type(row)]
    if type(module).forward is not kind.forward:
        return f"it is a subclass of {kind.__name__} with a forward of its own"
    if isinstance(row, Norm) and not (hasattr(module, "weight") and layers.epsilon(module) is not None):
        return "it has no weight or no epsilon"
    if used[op] == REFERENCE:
        return _AS_IT_WAS
    if "forward" in vars(module):
        return "its forward was replaced by somebody else"
    if isinstance(row, Mlp) and layers.activation(getattr(module, row.activation)) is None:
        return f"its activation is {type(getattr(module, row.activation)).__name__}"
    return None


def _own_config(model: Any) -> None:
    """A config of its own: others may have been made from the same."""
    shared = {id(model.config): copy.deepcopy(model.config)}
    for module in model.modules():
        if id(vars(module).get("config")) in shared:
            module.config = shared[id(module.config)]


def _take_out_what_differs(seen: Probe, rows: dict[nn.Module, Row], reasons: dict[nn.Module, str]) -> None:
    def of(kind: Any) -> list[Any]:
        return [module for module in rows if layers.original(module) is kind]

    def put_back(kind: Any, reason: str) -> None:
        for module in of(kind):
            layers.take_out(module)
            reasons[module] = reason

    def differs(kind: Any, call: Call) -> str | None:
        if (reason := call.difference()) is not None and rows[call.module] == Norm():
            for module in of(kind):  # the other RMSNorm that families have
                rows[module] = Norm(offset=1.0)
                module.litespark = replace(module.litespark, row=rows[module])
            return call.difference() and reason
        return reason

    for wanted in OP_OF:
        for kind, call in seen.calls.items():  # of the classes as they were
            ours = isinstance(rows.get(call.module), wanted) and layers.is_replaced(call.module)
            if ours and (reason := differs(kind, call)) is not None:
                put_back(kind, reason)
    if layers.is_replaced(seen.model) and (reason := seen.difference_of_loss()) is not None:
        put_back(layers.original(seen.model), reason)


def _switch_attention(model: Any, backend: str, seen: Probe | None) -> dict[nn.Module, str | None]:
    """Switch to our attention; the modules that ask for attention, and why not ours, or None."""
    named = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    if backend == REFERENCE:
        return dict.fromkeys(named, _AS_IT_WAS)
    if not model._can_set_attn_implementation():
        return dict.fromkeys(named, "it does not ask for attention by AttentionInterface")
    before = model.config._attn_implementation
    reason = None
    try:
        _set_attention(model, attention.register(backend))
        if seen is None:
            return dict.fromkeys(named)
        with attention.noting() as attending:
            reason = seen.difference_of_logits()
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:  # of models that look into their mask
        reason = f"{'' if isinstance(error, ValueError) else f'{type(error).__name__}: '}{error}".split(". ")[0]
    if reason is None:
        return attending
    _set_attention(model, before)
    return dict.fromkeys(named, reason)


def _set_attention(model: Any, name: str) -> None:
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def _multiply_in_fp8(model: Any, config: Fp8Config, pieces: Pieces, backend: str, done: list[Module]) -> list[Module]:
    """The linear layers in fp8, and what `done` says then."""
    reasons = fp8.enable(model, config, pieces)
    blocks = [name for name, module in model.named_modules() if layers.hand_over_fp8(module, model.litespark_fp8)]
    if None not in reasons.values():
        why = (
            ", ".join(map(str, dict.fromkeys(reasons.values())))
            or "none of them is in an attention or MLP that was replaced"
        )
        raise ValueError(f'litespark.apply: got precision="fp8", and no linear layer came to be in fp8: {why}')

    def with_fp8(module: Module) -> Module:
        if module.name not in reasons:
            return module
        if (reason := reasons[module.name]) is None:
            alone = "" if any(module.name.startswith(f"{block}.") for block in blocks) else " (cast alone)"
            return replace(module, ops={"fp8": f"{backend}{alone}"}, reason="")
        return replace(module, reason=f"fp8: {reason}")

    return [with_fp8(module) for module in done]
