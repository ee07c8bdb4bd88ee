"""Floating-point operations per token, as closed formulas of the model's sizes.

A multiply and an add are two operations. Only matrix products count, forward and backward; the backward pass of a
product costs twice its forward. Parameter term: Kaplan et al., arXiv:2001.08361; attention term: Chowdhery et al.
("PaLM"), arXiv:2204.02311, appendix B. Norms, rotary, activations and the optimizer are left out by convention.

`mean_keys` is the convention of attention: the mean number of keys that a query may see is S (full, F), (S+1)/2
(causal, C), or with documents masked the batch's (query, key) pairs divided by its tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # arithmetic: a reader of records needs no torch for it
    from litespark.models.adapters.counts import AdapterCounts
    from litespark.models.spec import ModelSpec, Recompute


def causal_mean_keys(seq_len: int) -> float:
    """Keys that a query sees on average in a causal sequence of S tokens: (S+1)/2."""
    return (seq_len + 1) / 2


def model_flops_per_token(config: ModelSpec, mean_keys: float, adapter: AdapterCounts | None = None) -> float:
    """Operations of one token in training: 6 · (matmul parameters, the head's included) + those of attention.

    With an `adapter` 4 · (matmul parameters), since their gradients are not made, and what `AdapterCounts` has.
    """
    matmul_parameters = config.matmul_parameter_count()
    whole = 6 * matmul_parameters + config.attention_flops(mean_keys)
    return whole if adapter is None else whole - adapter.saved_flops(matmul_parameters)


def hardware_flops_per_token(
    config: ModelSpec, mean_keys: float, recompute: Recompute, adapter: AdapterCounts | None = None
) -> float:
    """`model_flops_per_token` and what recomputation runs a second time."""
    again = config.recomputed_flops(mean_keys, recompute)
    again += 0.0 if adapter is None else adapter.recomputed_flops(recompute)
    return model_flops_per_token(config, mean_keys, adapter) + again


def flops_of_keys(causal: float, full: float, seq_len: int, mean_keys: float) -> float:
    """What other than `causal_mean_keys` adds to the causal FLOPs of a token; negative for fewer keys.

    FLOPs are linear in the mean keys, so the two conventions of one model give the slope.
    """
    whole_sequences = causal_mean_keys(seq_len)
    return 0.0 if seq_len == 1 else (full - causal) / (seq_len - whole_sequences) * (mean_keys - whole_sequences)
