"""What is computed of each row of logits (N, V), in plain PyTorch: the specification of the kernels.

The maximum and the sum of exponentials are kept apart: logsumexp would round away digits of the sum of large logits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from litespark.device import device_of

# of logits in fp32, half of a usual second-level cache
_CACHE_BYTES = 2**20


class Settings(NamedTuple):
    """The options of the op as `litespark.ops.linear_cross_entropy.reference` defines them; 0 is none."""

    ignore_index: int = -100
    z_loss: float = 0.0
    softcap: float = 0.0


class Losses(NamedTuple):
    """Of each row; (N,) each. Where the label is ignored, 0 and False; its maximum may be anything finite, its sum
    anything positive and finite.

    loss: -log p(label) + z_loss · logsumexp²; infinite where the label is no token id.
    maximum: of the logits, after the soft cap. sum_exp: Σ exp(logit - maximum).
    correct: bool, is the label the likeliest id?
    """

    loss: Tensor
    maximum: Tensor
    sum_exp: Tensor
    correct: Tensor


def losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    """Losses of whole rows (N, V); with a gradient, d loss / d logits has replaced the logits, and `correct` is not
    found out: it is False."""
    parts = zip(_in_cache(logits), _in_cache(logits, labels), strict=True)
    return Losses(*map(torch.cat, zip(*(_losses(*part, settings, with_gradient) for part in parts), strict=True)))


def _losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    x = _capped(_wide(logits), settings)
    # which id is the likeliest takes as long again
    maximum, best = (x.amax(dim=1), None) if with_gradient else x.max(dim=1)
    column, inside = _label_column(labels, x.shape[1])
    label_logit = torch.where(inside, x.gather(1, column.unsqueeze(1)).squeeze(1), float("-inf"))
    counts = labels != settings.ignore_index
    correct = torch.zeros_like(counts) if best is None else counts & (best == labels)
    slope = _slope(x, settings)
    # a row of -inf has no finite maximum to subtract
    shift = maximum.clamp(min=torch.finfo(x.dtype).min)
    exponentials = _exponentials_(x, shift, counts) if with_gradient else (x - shift.unsqueeze(1)).exp_()
    sum_exp = torch.where(counts, exponentials.sum(dim=1), 1)
    loss = maximum - label_logit + sum_exp.log()
    if settings.z_loss:
        loss = loss + settings.z_loss * (maximum + sum_exp.log()).square()
    if with_gradient:
        _write_gradient(logits, exponentials, slope, labels, maximum, sum_exp, None, settings)
    # selected, not multiplied: an ignored row may hold anything
    return Losses(torch.where(counts, loss, 0), maximum, sum_exp, correct)


def gradient_(
    logits: Tensor, labels: Tensor, maximum: Tensor, sum_exp: Tensor, upstream: Tensor | None, settings: Settings
) -> None:
    """upstream · d loss / d logits replaces the logits; all between are (N,), and no upstream stands for ones.

    d nats / d logit = p - [id = label] with p = exp(logit - maximum) / sum_exp, d logsumexp² / d logit =
    2 · logsumexp · p, and the soft cap contributes the factor 1 - tanh².
    """
    upstream = torch.ones_like(sum_exp) if upstream is None else upstream
    of_rows = (_in_cache(logits, rows) for rows in (labels, maximum, sum_exp, upstream))
    for part, ids, most, total, factor in zip(_in_cache(logits), *of_rows, strict=True):
        x = _capped(_wide(part), settings)
        slope = _slope(x, settings)
        exponentials = _exponentials_(x, most, ids != settings.ignore_index)
        _write_gradient(part, exponentials, slope, ids, most, total, factor, settings)


def _write_gradient(
    logits: Tensor, exponentials: Tensor, slope: Tensor | None, labels: Tensor, maximum: Tensor, sum_exp: Tensor,
    upstream: Tensor | None, settings: Settings,
) -> None:  # fmt: skip
    """The gradient of `gradient_` into `logits`, from exp(logit - maximum), which it may overwrite."""
    counts = labels != settings.ignore_index
    upstream = counts.to(sum_exp.dtype) if upstream is None else torch.where(counts, upstream, 0)
    factor = upstream / sum_exp
    if settings.z_loss:
        factor = factor * (1 + 2 * settings.z_loss * (maximum + sum_exp.log()))
    x = exponentials.mul_(factor.unsqueeze(1))
    column, inside = _label_column(labels, x.shape[1])
    column = column.unsqueeze(1)
    x.scatter_(1, column, x.gather(1, column) - torch.where(inside, upstream, 0).unsqueeze(1))
    if slope is not None:
        x.mul_(slope)
    if x is not logits:
        logits.copy_(x)


def _exponentials_(x: Tensor, maximum: Tensor, counts: Tensor) -> Tensor:
    """exp(x - maximum) replaces x. exp(-inf) is 0: an ignored row is zeroed whatever finite values it holds, without a
    pass of its own."""
    return x.sub_(torch.where(counts, maximum, float("inf")).unsqueeze(1)).exp_()


def _slope(capped: Tensor, settings: Settings) -> Tensor | None:
    return 1 - (capped / settings.softcap).square() if settings.softcap else None


def _in_cache(logits: Tensor, rows: Tensor | None = None) -> tuple[Tensor, ...]:
    """Parts of the logits, or of (N,) `rows` beside them, between whose passes a processor's cache keeps them."""
    rows = logits if rows is None else rows
    if device_of(logits.device).is_accelerator:  # launches cost more there
        return (rows,)
    return rows.split(max(1, _CACHE_BYTES // (4 * logits.shape[1])))


def bytes_per_logit(dtype: torch.dtype) -> int:
    """What a logit takes while the functions above run: itself, and about two wide copies."""
    wide = torch.promote_types(dtype, torch.float32)
    return dtype.itemsize + 2 * wide.itemsize


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _capped(x: Tensor, settings: Settings) -> Tensor:
    return settings.softcap * torch.tanh(x / settings.softcap) if settings.softcap else x


def _label_column(labels: Tensor, ids: int) -> tuple[Tensor, Tensor]:
    """(N,) a column that may be read, and (N,) bool whether it is the label's."""
    return labels.clamp(0, ids - 1), (labels >= 0) & (labels < ids)
