"""Which layers of transformers our ops take the place of: families, and how their layers differ from Llama's.

The names are those of transformers 5. What a row says is compared with the layer itself before it is replaced.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Norm:
    """RMSNorm of the last dimension: `weight`, and `variance_epsilon` or `eps`."""

    offset: float = 0.0  # added to the weight: 1.0 where it is stored as the distance from one


@dataclass(frozen=True)
class Attention:
    """Projections, rotary embedding of queries and keys, attention, projection."""

    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")  # or one that makes all three
    output: str = "o_proj"
    # of queries and keys: none, q_norm and k_norm of each head (where a layer has them), or of all
    norms: Literal["", "heads", "whole"] = ""
    # what rotates: halves of a head, or neighbours, also by tables in which an angle's two copies are neighbours
    pairs: Literal["halves", "neighbours", "neighbours in tables"] = "halves"
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
    """A residual block in which a norm follows an addition, or stands before it, or both: all is one op."""

    norm: str | None = "post_attention_layernorm"  # that follows the addition of attention
    after_attention: str | None = None  # norm of what is added
    after_mlp: str | None = None
    multiplier: str | None = None  # attribute with the factor of what is added
    dropouts: tuple[str, ...] = ()  # modules that must drop nothing
    first: str | None = "input_layernorm"  # norm before attention


@dataclass(frozen=True)
class Head:
    """The head and the loss of a causal LM, as one op."""

    softcap: str | None = None  # keys of the config
    divisor: str | None = None
    multiplier: str | None = None


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
_AFTER: dict[str, Any] = {"after_attention": "post_attention_layernorm", "after_mlp": "post_feedforward_layernorm"}
_SANDWICH, _POST_NORM = Layer(norm="pre_feedforward_layernorm", **_AFTER), Layer(first=None, norm=None, **_AFTER)
_CAPPED = Head(softcap="final_logit_softcapping")
_NEIGHBOURS, _ONE_MATRIX = Attention(pairs="neighbours"), Mlp(("gate_up_proj",), activation="activation_fn")
_SCALED = Head(multiplier="logit_scale")
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
            "phi3", "Phi3", attention=Attention(("qkv_proj",)), mlp=_ONE_MATRIX,
            layer=Layer(dropouts=("resid_attn_dropout", "resid_mlp_dropout")),
        ),
        Family("smollm3", "SmolLM3", attention=Attention(rotates_if="use_rope")),
        Family("olmo2", "Olmo2", attention=_NORMS_OF_ALL, layer=_POST_NORM),
        Family("olmo3", "Olmo3", attention=_NORMS_OF_ALL, layer=_POST_NORM),
        Family(
            "granite", "Granite", layer=Layer(multiplier="residual_multiplier"), head=Head(divisor="logits_scaling")
        ),
        Family("helium", "Helium", attention=_NEIGHBOURS),
        Family("ernie4_5", "Ernie4_5", attention=_NEIGHBOURS),
        Family("glm", "Glm", attention=_NEIGHBOURS, mlp=_ONE_MATRIX),
        Family(
            "glm4", "Glm4", attention=_NEIGHBOURS, mlp=_ONE_MATRIX,
            layer=Layer("post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
        ),
        # LayerNorm, and attention beside the MLP
        Family(
            "cohere", "Cohere", None, Attention(norms="heads", pairs="neighbours in tables"), layer=None, head=_SCALED
        ),
        Family(
            "cohere2", "Cohere2", None, Attention(pairs="neighbours in tables", rotates_if="sliding_window"),
            layer=None, head=_SCALED,
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
