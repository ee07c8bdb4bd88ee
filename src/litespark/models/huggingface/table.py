"""Which layers of transformers our ops take the place of: families, and how their layers differ from Llama's.

The names are those of transformers 5. What a row says is compared with the layer itself before it is replaced.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Norm:
    """RMSNorm of the last dimension: `weight`, and `variance_epsilon` or `eps`."""

    offset: float = 0.0  # added to the weight: 1.0 where it is stored as the distance from one


@dataclass(frozen=True)
class Attention:
    """Projections, rotary embedding of queries and keys, attention, projection."""

    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")  # or one that makes all three
    output: str = "o_proj"
    norms: Literal["", "heads", "whole"] = ""  # of queries and keys: none, q_norm and k_norm of each head, or of all
    rotates_if: str | None = None  # attribute that says whether this layer rotates; None: each does
    softcap: str | None = None  # attribute with the cap of the scores
    dropout: str | None = None  # attribute with the rate of dropout behind the projection


@dataclass(frozen=True)
class Mlp:
    """down(activation(gate) · up)."""

    inputs: tuple[str, ...] = ("gate_proj", "up_proj")  # or one that makes both
    output: str = "down_proj"
    activation: str = "act_fn"


@dataclass(frozen=True)
class Layer:
    """A residual block in which the addition of attention is followed by a norm: both are one op."""

    norm: str = "post_attention_layernorm"  # that follows the addition
    after_attention: str | None = None  # norm of what is added
    after_mlp: str | None = None
    multiplier: str | None = None  # attribute with the factor of what is added
    dropouts: tuple[str, ...] = ()  # modules that must drop nothing


@dataclass(frozen=True)
class Head:
    """The head and the loss of a causal LM, as one op."""

    softcap: str | None = None  # keys of the config
    divisor: str | None = None


@dataclass(frozen=True)
class Family:
    """The layers of one `model_type`; None: left as they are."""

    model_type: str
    prefix: str  # of the names of its classes
    norm: Norm | None = Norm()
    attention: Attention | None = Attention()
    mlp: Mlp | None = Mlp()
    layer: Layer | None = Layer()
    head: Head | None = Head()

    def rows(self) -> dict[str, Norm | Attention | Mlp | Layer | Head]:
        """Name of a class -> what it is."""
        named = {
            "RMSNorm": self.norm, "Attention": self.attention, "MLP": self.mlp, "DecoderLayer": self.layer,
            "ForCausalLM": self.head,
        }  # fmt: skip
        return {f"{self.prefix}{suffix}": row for suffix, row in named.items() if row is not None}


_OFFSET = Norm(offset=1.0)
_SANDWICH = Layer("pre_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm")
_CAPPED = Head(softcap="final_logit_softcapping")
_NORMS_OF_HEADS, _NORMS_OF_ALL = Attention(norms="heads"), Attention(norms="whole")

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", "Llama"),
        Family("mistral", "Mistral"),
        Family("qwen2", "Qwen2"),
        Family("qwen3", "Qwen3", attention=_NORMS_OF_HEADS),
        Family(
            "gemma2", "Gemma2", norm=_OFFSET, attention=Attention(softcap="attn_logit_softcapping"), layer=_SANDWICH,
            head=_CAPPED,
        ),
        Family("gemma3_text", "Gemma3", norm=_OFFSET, attention=_NORMS_OF_HEADS, layer=_SANDWICH, head=_CAPPED),
        Family(
            "phi3", "Phi3", attention=Attention(("qkv_proj",)), mlp=Mlp(("gate_up_proj",), activation="activation_fn"),
            layer=Layer(dropouts=("resid_attn_dropout", "resid_mlp_dropout")),
        ),
        Family("smollm3", "SmolLM3", attention=Attention(rotates_if="use_rope")),
        # the norm comes before the addition, so there is nothing to join
        Family("olmo2", "Olmo2", attention=_NORMS_OF_ALL, layer=None),
        Family("olmo3", "Olmo3", attention=_NORMS_OF_ALL, layer=None),
        Family(
            "granite", "Granite", layer=Layer(multiplier="residual_multiplier"), head=Head(divisor="logits_scaling")
        ),
        # LayerNorm, and an MLP without a gate
        Family("starcoder2", "Starcoder2", None, Attention(dropout="residual_dropout"), None, None),
        # and queries, keys and values of a head side by side
        Family("gpt_neox", "GPTNeoX", None, None, None, None),
        # the experts are left as they are
        Family("qwen3_moe", "Qwen3Moe", attention=_NORMS_OF_HEADS),
        Family("mixtral", "Mixtral", mlp=None),
    )
}  # fmt: skip
