"""The sizes that our ops meet in a layer, and what else they are chosen by, from a config of transformers."""

from typing import Any

from litespark.ops.shapes import StepShapes


def size_of(config: Any, name: str, otherwise: int) -> int:
    """A size that not every family states, or states as a list of one a layer."""
    value = getattr(config, name, None)
    return value if isinstance(value, int) and value > 0 else otherwise


def caps_scores(config: Any) -> bool:
    """Whether attention has a soft cap, which not every backend takes."""
    return getattr(config, "attn_logit_softcapping", None) is not None


def window_of(attention: Any) -> int | None:
    """The keys that a query of an attention layer sees, itself among them; None: all.

    As the layer has it, or by its kind where the config has kinds of layers.
    """
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    config, index = attention.config, getattr(attention, "layer_idx", None)
    window = getattr(config, "sliding_window", None)
    kinds = None if window is None or index is None else getattr(config, "layer_types", None)
    return window if kinds is None or kinds[index] == "sliding_attention" else None


def step_shapes_of(config: Any, sequences: int, length: int, documents: bool = False) -> StepShapes:
    """Of a micro-batch in one layer; a model without attention gets heads of 64."""
    heads = size_of(config, "num_attention_heads", -(-config.hidden_size // 64))
    kv_heads = size_of(config, "num_key_value_heads", heads)
    return StepShapes(
        sequences,
        length,
        config.hidden_size,
        heads,
        heads if heads % kv_heads else kv_heads,  # some families have the key and do not read it
        size_of(config, "head_dim", config.hidden_size // heads),
        size_of(config, "intermediate_size", 4 * config.hidden_size),
        config.vocab_size,
        documents,
    )
