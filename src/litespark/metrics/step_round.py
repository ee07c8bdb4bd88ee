"""The figures of one process of `litespark bench step`, from its raw values."""

from __future__ import annotations

from litespark.metrics.records.step import RoundRecord, StepModel


def tokens_per_second(round_: RoundRecord) -> float:
    """Counted tokens over the time of the counted steps."""
    return round_.tokens / _seconds(round_)


def joules_per_token(round_: RoundRecord) -> float:
    """Energy of the counted steps over their tokens; the round must have energy."""
    return _joules(round_) / round_.tokens


def watts(round_: RoundRecord) -> float:
    """Energy of the counted steps over their time; the round must have energy."""
    return _joules(round_) / _seconds(round_)


def flops_per_token(model: StepModel, length: int, round_: RoundRecord) -> float:
    """Causal model FLOPs per token at the pairs that the round's masks allowed.

    The model's two figures, of S and of (S+1)/2 keys for each query, are on one line; this is the line at the mean of
    the keys that were seen.
    """
    return model.flops_per_token_causal + _per_key(model, length) * _more_keys(length, round_)


def hardware_flops_per_token(hardware: float, model: StepModel, length: int, round_: RoundRecord) -> float:
    """`hardware`, which is of whole causal rows, at the pairs that were seen: a second forward is a third of all."""
    again = 4 / 3 if round_.recompute == "full" else 1.0
    return hardware + again * _per_key(model, length) * _more_keys(length, round_)


def _per_key(model: StepModel, length: int) -> float:
    if length == 1:
        return 0.0
    return (model.flops_per_token_full - model.flops_per_token_causal) / (length - (length + 1) / 2)


def _more_keys(length: int, round_: RoundRecord) -> float:
    return round_.attention_pairs / round_.tokens - (length + 1) / 2


def _seconds(round_: RoundRecord) -> float:
    return sum(round_.step_ms) / 1e3


def _joules(round_: RoundRecord) -> float:
    assert round_.joules is not None
    return round_.joules
