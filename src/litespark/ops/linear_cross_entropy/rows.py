"""What is computed of each row of logits (N, V), in plain PyTorch: the specification of the kernels.

The maximum and the sum of exponentials are kept apart: logsumexp would round away digits of the sum of large logits.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Settings(NamedTuple):
    """The options of the op as `litespark.ops.linear_cross_entropy.reference` defines them; 0 is none."""

    ignore_index: int = -100
    z_loss: float = 0.0
    softcap: float = 0.0


class Losses(NamedTuple):
    """Of each row; (N,) each. Where the label is ignored, 0 and False; its maximum and sum may be anything finite.

    loss: -log p(label) + z_loss · logsumexp²; infinite where the label is no token id.
    maximum: of the logits, after the soft cap. sum_exp: Σ exp(logit - maximum).
    correct: bool, is the label the likeliest id?
    """

    loss: Tensor
    maximum: Tensor
    sum_exp: Tensor
    correct: Tensor


def losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    """Losses of whole rows (N, V); with a gradient, d loss / d logits has replaced the logits."""
    x = _capped(_wide(logits), settings)
    maximum, best = x.max(dim=1)
    # a row of -inf has no finite maximum to subtract
    sum_exp = (x - maximum.clamp(min=torch.finfo(x.dtype).min).unsqueeze(1)).exp().sum(dim=1)
    column, inside = _label_column(labels, x.shape[1])
    label_logit = torch.where(inside, x.gather(1, column.unsqueeze(1)).squeeze(1), float("-inf"))
    counts = labels != settings.ignore_index
    loss = maximum - label_logit + sum_exp.log()
    if settings.z_loss:
        loss = loss + settings.z_loss * (maximum + sum_exp.log()).square()
    if with_gradient:
        del x  # before another wide copy is made
        gradient_(logits, labels, maximum, sum_exp, None, settings)
    # selected, not multiplied: an ignored row may hold anything
    return Losses(torch.where(counts, loss, 0), maximum, sum_exp, counts & (best == labels))


def gradient_(
    logits: Tensor, labels: Tensor, maximum: Tensor, sum_exp: Tensor, upstream: Tensor | None, settings: Settings
) -> None:
    """upstream · d loss / d logits replaces the logits; all between are (N,), and no upstream stands for ones.

    d nats / d logit = p - [id = label] with p = exp(logit - maximum) / sum_exp, d logsumexp² / d logit =
    2 · logsumexp · p, and the soft cap contributes the factor 1 - tanh².
    """
    x = _capped(_wide(logits), settings)
    slope = 1 - (x / settings.softcap).square() if settings.softcap else None
    counts = labels != settings.ignore_index
    upstream = counts.to(x.dtype) if upstream is None else torch.where(counts, upstream, 0)
    factor = upstream / torch.where(counts, sum_exp, 1)
    if settings.z_loss:
        factor = factor * (1 + 2 * settings.z_loss * (maximum + sum_exp.log()))
    # exp(-inf) is 0: an ignored row is zeroed whatever finite values it holds, without a pass of its own
    x.sub_(torch.where(counts, maximum, float("inf")).unsqueeze(1)).exp_().mul_(factor.unsqueeze(1))
    column, inside = _label_column(labels, x.shape[1])
    column = column.unsqueeze(1)
    x.scatter_(1, column, x.gather(1, column) - torch.where(inside, upstream, 0).unsqueeze(1))
    if slope is not None:
        x.mul_(slope)
    if x is not logits:
        logits.copy_(x)


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
