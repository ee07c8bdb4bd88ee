"""A whole model before and after our ops: its loss and every gradient, for packed sequences."""

from typing import Any

import torch
from torch import Tensor

from litespark.device import device_of
from litespark.models.huggingface.probing import still
from litespark.ops.shapes import Place

# relative to the size of a gradient: what another order of the same additions makes
_BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 3e-2}


def gradients_of(model: Any, place: Place) -> dict[str, Tensor]:
    """The loss and the gradient of each trained parameter, on the CPU, for sequences of two documents."""
    shapes = place.shapes
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(shapes.vocab_size, (shapes.sequences, shapes.length), generator=generator)
    positions = torch.arange(shapes.length)
    positions = torch.where(positions < shapes.length // 3, positions, positions - shapes.length // 3)
    tokens, positions = tokens.to(place.device), positions.expand_as(tokens).to(place.device)
    trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
    extra = {"skip_logits": True} if hasattr(model, "litespark") else {}
    dtype = place.dtype if place.autocast else None
    with still(model), torch.enable_grad(), device_of(place.device).autocast(dtype):
        loss = model(tokens, position_ids=positions, labels=tokens, use_cache=False, **extra).loss
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    gradients = zip(trained, found, strict=True)
    return {"loss": loss.detach().cpu()} | {name: it.cpu() for name, it in gradients if it is not None}


def why_apart(model: Any, place: Place, before: dict[str, Tensor]) -> str | None:
    """What differs from `before`, in a few words; None: nothing beyond rounding."""
    after = gradients_of(model, place)
    if missing := before.keys() ^ after.keys():
        return f"gradients of other parameters: {', '.join(sorted(missing)[:3])}"
    bound = _BOUNDS.get(place.dtype, _BOUNDS[torch.float32])
    distances = {
        name: float((after[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-30))
        for name, value in before.items()
    }
    wrong = {name: it for name, it in distances.items() if not it <= bound}
    if not wrong:
        return None
    worst = max(wrong, key=lambda name: wrong[name])
    return f"{len(wrong)} of {len(before)} apart, {worst} by {wrong[worst]:.1e} with at most {bound:.0e} allowed"
