"""What is computed of each row of logits, in plain PyTorch, and the seam along which a vocabulary can be sharded.

Each shard makes the `statistics` of the logits it holds; `combine` joins those of all shards into those of the whole
row; `token_losses` makes losses of them; `gradient_` needs only a shard's own logits and the joined maximum and sum.
One shard is the whole vocabulary, and then nothing is joined. Maxima and sums of exponentials are joined as in online
softmax: Milakov and Gimelshein, arXiv:1805.02867. They are kept apart, since logsumexp = maximum + log(sum) rounds away
the digits of the sum where logits are large.

N rows of a chunk, V token ids that the logits cover: the whole vocabulary or a shard of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """The options of the op as `litespark.ops.linear_cross_entropy.reference` defines them.

    Attributes:
        ignore_index: label of rows that are left out.
        z_loss: weight of logsumexp²; 0: none.
        softcap: logits become softcap · tanh(logits / softcap); 0: they stay.
    """

    ignore_index: int = -100
    z_loss: float = 0.0
    softcap: float = 0.0


class Statistics(NamedTuple):
    """Of each row, over the token ids that were seen; (N,) each. A row whose label is ignored may hold anything finite.

    maximum: of the logits, after the soft cap.
    sum_exp: Σ exp(logit - maximum).
    label_logit: -inf where the label is not among the ids seen.
    best: int64, the id of the largest logit; of equal ones the first.
    """

    maximum: Tensor
    sum_exp: Tensor
    label_logit: Tensor
    best: Tensor


class Losses(NamedTuple):
    """Of each row; (N,) each. Where the label is ignored, 0 and False; its maximum and sum may be anything finite.

    loss: -log p(label) + z_loss · logsumexp²; infinite where the label is no token id.
    maximum, sum_exp: of `Statistics`; logsumexp = maximum + log(sum_exp).
    correct: bool, is the label the likeliest id?
    """

    loss: Tensor
    maximum: Tensor
    sum_exp: Tensor
    correct: Tensor


@dataclass(frozen=True)
class RowFunctions:
    """How a backend does the work on a chunk of whole rows.

    Attributes:
        losses: (logits, labels, settings, with_gradient) -> `Losses`; with a gradient, d loss / d logits has replaced
            the logits.
        gradient_: (logits, labels, maximum, sum_exp, upstream, settings) -> None; upstream · d loss / d logits has
            replaced the logits. The four in between are (N,); no upstream stands for ones.
        bytes_per_logit: what a logit of that dtype takes while the functions above run.
    """

    losses: Callable[[Tensor, Tensor, Settings, bool], Losses]
    gradient_: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Settings], None]
    bytes_per_logit: Callable[[torch.dtype], int]


def statistics(logits: Tensor, labels: Tensor, settings: Settings, first_id: int = 0) -> Statistics:
    """One shard's part.

    Args:
        logits: (N, V) for the ids first_id .. first_id + V - 1, V at least 1.
        labels: (N,) int64 ids of the whole vocabulary; those outside of the shard are no error.
        settings: the options.
        first_id: id of the first column.
    """
    x = _capped(_wide(logits), settings)
    maximum, best = x.max(dim=1)
    # a row of -inf has no finite maximum to subtract
    sum_exp = (x - maximum.clamp(min=torch.finfo(x.dtype).min).unsqueeze(1)).exp().sum(dim=1)
    column, inside = _label_column(labels, first_id, x.shape[1])
    label_logit = torch.where(inside, x.gather(1, column.unsqueeze(1)).squeeze(1), float("-inf"))
    return Statistics(maximum, sum_exp, label_logit, best + first_id)


def combine(shards: list[Statistics]) -> Statistics:
    """The statistics of the union of disjoint shards, given in the order of their ids."""
    maxima = torch.stack([shard.maximum for shard in shards])
    maximum, winner = maxima.max(dim=0)
    sums = torch.stack([shard.sum_exp for shard in shards])
    return Statistics(
        maximum,
        (sums * (maxima - maximum).exp()).sum(dim=0),
        torch.stack([shard.label_logit for shard in shards]).amax(dim=0),
        torch.stack([shard.best for shard in shards]).gather(0, winner.unsqueeze(0)).squeeze(0),
    )


def token_losses(found: Statistics, labels: Tensor, settings: Settings) -> Losses:
    """The losses of rows whose whole vocabulary has been seen."""
    counts = labels != settings.ignore_index
    loss = found.maximum - found.label_logit + found.sum_exp.log()
    if settings.z_loss:
        loss = loss + settings.z_loss * (found.maximum + found.sum_exp.log()).square()
    # selected, not multiplied: an ignored row may hold anything
    loss = torch.where(counts, loss, 0)
    return Losses(loss, found.maximum, found.sum_exp, counts & (found.best == labels))


def losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    """See `RowFunctions`."""
    found = token_losses(statistics(logits, labels, settings), labels, settings)
    if with_gradient:
        gradient_(logits, labels, found.maximum, found.sum_exp, None, settings)
    return found


def gradient_(
    logits: Tensor,
    labels: Tensor,
    maximum: Tensor,
    sum_exp: Tensor,
    upstream: Tensor | None,
    settings: Settings,
    first_id: int = 0,
) -> None:
    """Replace a shard's logits by upstream · d loss / d logits.

    d nats / d logit = p - [id = label] with p = exp(logit - maximum) / sum_exp, d logsumexp² / d logit =
    2 · logsumexp · p, and the soft cap contributes the factor 1 - tanh².

    Args:
        logits: (N, V) as given to `statistics`, overwritten.
        labels: (N,) int64.
        maximum, sum_exp: (N,) of the whole row.
        upstream: (N,) gradient of each row's loss; None: ones.
        settings: the options.
        first_id: id of the first column.
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
    column, inside = _label_column(labels, first_id, x.shape[1])
    column = column.unsqueeze(1)
    x.scatter_(1, column, x.gather(1, column) - torch.where(inside, upstream, 0).unsqueeze(1))
    if slope is not None:
        x.mul_(slope)
    if x is not logits:
        logits.copy_(x)


def bytes_per_logit(dtype: torch.dtype) -> int:
    """The logits, and about two wide copies of them."""
    wide = torch.promote_types(dtype, torch.float32)
    return dtype.itemsize + 2 * wide.itemsize


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _capped(x: Tensor, settings: Settings) -> Tensor:
    return settings.softcap * torch.tanh(x / settings.softcap) if settings.softcap else x


def _label_column(labels: Tensor, first_id: int, ids: int) -> tuple[Tensor, Tensor]:
    """(N,) a column that may be read, and (N,) bool whether it is the label's."""
    column = labels - first_id
    return column.clamp(0, ids - 1), (column >= 0) & (column < ids)


ROWS = RowFunctions(losses, gradient_, bytes_per_logit)
