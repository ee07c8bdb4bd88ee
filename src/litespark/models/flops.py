"""Floating-point operations per token, as closed formulas of the model's sizes.

A multiply and an add are two operations. Only matrix products count, forward and backward; the backward pass of a
product costs twice its forward. Parameter term: Kaplan et al., arXiv:2001.08361; attention term: Chowdhery et al.
("PaLM"), arXiv:2204.02311, appendix B. Norms, rotary, activations and the optimizer are left out by convention.

`mean_keys` says which convention the attention follows: the mean number of keys that a query may see is S (full, F),
(S+1)/2 (causal, C), or with documents masked the batch's (query, key) pairs divided by its tokens.
"""

from litespark.models.config import RECOMPUTE_MODES, LlamaConfig, Recompute


def causal_mean_keys(sequence_length: int) -> float:
    """Keys that a query sees on average in a causal row of S tokens: (S+1)/2."""
    return (sequence_length + 1) / 2


def model_flops_per_token(config: LlamaConfig, mean_keys: float) -> float:
    """Operations that one token costs in training, forward and backward, without recomputation.

    6 · (matmul parameters, the head's included) + L · 12 · H · Dh · mean_keys.

    Args:
        config: the sizes.
        mean_keys: keys that a query may see on average, see the module's docstring.

    Raises:
        ValueError: `mean_keys` is not positive.
    """
    if not mean_keys > 0:
        raise ValueError(f"mean_keys is {mean_keys}; it is the mean number of keys a query sees and must be positive")
    return 6 * config.matmul_parameter_count() + 12 * config.layers * config.heads * config.head_width * mean_keys


def hardware_flops_per_token(config: LlamaConfig, mean_keys: float, recompute: Recompute) -> float:
    """`model_flops_per_token` and what recomputation runs a second time.

    With recompute "swiglu" that is nothing: no matrix product is made again. With "full" it is each block's forward
    without its last product: PyTorch stops the second forward once it has made every activation that the backward pass
    reads, and the output of `down` is not among them.

    Raises:
        ValueError: unknown `recompute`, or `mean_keys` is not positive.
    """
    if recompute not in RECOMPUTE_MODES:
        raise ValueError(f"recompute is {recompute!r}; expected one of {', '.join(RECOMPUTE_MODES)}")
    flops = model_flops_per_token(config, mean_keys)
    if recompute == "full":
        again = config.block_matmul_parameters() - config.width * config.feed_forward
        flops += config.layers * (2 * again + 4 * config.heads * config.head_width * mean_keys)
    return flops
