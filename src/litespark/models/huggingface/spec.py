"""Any causal language model of transformers as a `ModelSpec`: the config of its folder, and what follows from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from litespark.config.settings import FIXED, Switch, settings
from litespark.models.huggingface.sizes import step_shapes_of
from litespark.models.spec import Recompute
from litespark.ops.backend import BACKENDS, Ops, OpsConfig, resolve
from litespark.ops.shapes import StepShapes
from litespark.ranges import Count

if TYPE_CHECKING:
    from litespark.models.huggingface.counts import Counts
    from litespark.models.huggingface.initial import Rules
    from litespark.models.huggingface.model import CausalLM


@settings("model", resume=FIXED)
class HuggingFaceConfig:
    """A model on disk; the `ModelSpec` of those that no family of ours takes."""

    path: Annotated[str, StringConstraints(min_length=1), Field(examples=["FOLDER"])]
    """A Hugging Face folder, or a run or checkpoint of ours: its sizes are taken, its tokenizer where data.tokenizer is
    null, and its weights. A plain Llama becomes the native one."""
    random: Switch = False
    """Take the sizes alone, and draw the weights."""
    num_labels: Count | None = None
    """Rows of the head where it is no head of the vocabulary: 1 of a reward model, which task=reward sets."""
    config: Mapping[str, Any] | None = None
    """What the folder's config.json says, filled in when a run starts: a resume does not need the folder."""

    @staticmethod
    def huggingface() -> Any:
        """See `HasHuggingFace`."""
        from litespark.models.huggingface import folder  # reads and makes this class

        return folder

    @property
    def name(self) -> str:
        return Path(self.path).absolute().name

    @cached_property
    def transformers(self) -> Any:
        """The config as an object of transformers."""
        return self.huggingface().transformers_config(self.config)

    @property
    def num_layers(self) -> int:
        return int(self.transformers.num_hidden_layers)

    @property
    def vocab_size(self) -> int:
        return int(self.transformers.vocab_size)

    @property
    def max_seq_len(self) -> int:
        # a model without positions takes any length
        return int(getattr(self.transformers, "max_position_embeddings", None) or 2**31 - 1)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a text."""
        stated = self.transformers.eos_token_id
        return () if stated is None else tuple(stated) if isinstance(stated, list) else (stated,)

    @property
    def recompute_modes(self) -> tuple[Recompute, ...]:
        return ("none", "full") if self.on_meta.causal_lm.supports_gradient_checkpointing else ("none",)

    def with_layers(self, layers: int) -> "HuggingFaceConfig":
        """The same model of so many layers."""
        assert self.config is not None
        name = self.transformers.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        # what is said of each layer, too
        cut = {
            key: value[:layers] if isinstance(value, list) and len(value) == self.num_layers else value
            for key, value in self.config.items()
        }
        return dataclasses.replace(self, config={**cut, name: layers})

    @cached_property
    def on_meta(self) -> "CausalLM":
        """The model without memory, for what its layers tell."""
        from litespark.models.huggingface.model import CausalLM

        try:
            with torch.device("meta"):
                return CausalLM(self, resolve(OpsConfig()), "none")
        except Exception as error:  # of another library, which has its own kinds
            raise ValueError(
                f"{self.path}: transformers makes no model of its config.json: {str(error).strip()[:300]}; correct the "
                "sizes there, or choose another model"
            ) from error

    @cached_property
    def idle_ops(self) -> frozenset[str]:
        """See `HasIdleOps`: of a family that the table of `litespark.apply` does not have, most of them."""
        from litespark.models.huggingface.apply import ops_of

        return frozenset(BACKENDS.keys() - ops_of(self.on_meta.causal_lm))

    @cached_property
    def rules(self) -> "Rules":
        """How transformers initialises each parameter."""
        from litespark.models.huggingface.initial import rules_of

        return rules_of(self.on_meta)

    def build(self, ops: Ops, recompute: Recompute) -> nn.Module:
        """See `ModelSpec`."""
        from litespark.models.huggingface.model import CausalLM

        _ = self.rules  # now: `draw` is called in threads
        return CausalLM(self, ops, recompute)

    def described(self, ops: Ops) -> str:
        """What computes with `ops`, layer by layer, and how its FLOPs are counted."""
        from litespark.models.huggingface.apply import Applied
        from litespark.models.huggingface.model import CausalLM

        with torch.device("meta"):
            model = CausalLM(self, ops, "none")
        lines = [str(Applied(tuple(model.applied), ()))] if model.applied else []
        if self.idle_ops >= {*BACKENDS}:
            lines.append("all as transformers computes it: the table of docs/models.md does not have this family")
        if getattr(self.transformers, "router_aux_loss_coef", None):
            lines.append("loss: of the next token alone, without that which balances experts")
        if self.counts.counted:
            lines.append(f"FLOPs of {', '.join(self.counts.counted)}: as PyTorch's counter has them")
        if self.counts.uncounted:
            lines.append(f"FLOPs: without layers of no known kind; {self.counts.uncounted}")
        return "\n".join([f"{self.name}: {type(model.causal_lm).__name__} of transformers", *lines])

    def draw(self, name: str, values: Tensor, generator: torch.Generator) -> None:
        """See `ModelSpec`: as transformers initialises the parameter."""
        self.rules.draw(name, values, generator)

    def units(self, model: nn.Module) -> Sequence[nn.Module]:
        """See `ModelSpec`: the decoder layers."""
        layers: Any = model.layers
        return list(layers)

    def linear_layers(self, model: nn.Module) -> dict[str, str]:
        """See `TakesAdapters`."""
        parts = {id(part) for layer in self.units(model) for part in layer.modules()}
        return {
            name.removeprefix("causal_lm."): name
            for name, part in model.named_modules()
            if id(part) in parts and isinstance(part, nn.Linear)
        }

    @cached_property
    def counts(self) -> "Counts":
        """Parameters and FLOPs, by the types of its layers."""
        from litespark.models.huggingface.counts import counts_of

        return counts_of(self.transformers)

    def parameter_count(self) -> int:
        """See `ModelSpec`."""
        return self.counts.parameters + self._more_in_head(tied=bool(self.transformers.tie_word_embeddings))

    def matmul_parameter_count(self) -> int:
        """See `ModelSpec`."""
        return self.counts.matmul_parameters + self._more_in_head(tied=False)

    def _more_in_head(self, *, tied: bool) -> int:
        """Parameters that a head of labels has more than that of the vocabulary; where `tied`, that has none."""
        if self.num_labels is None:
            return 0
        return int(self.transformers.hidden_size) * (self.num_labels - (0 if tied else self.vocab_size))

    def attention_flops(self, mean_keys: float) -> float:
        """See `ModelSpec`."""
        return self.counts.attention_flops(mean_keys)

    def recomputed_flops(self, mean_keys: float, recompute: Recompute) -> float:
        """See `ModelSpec`."""
        return self.counts.recomputed_flops(mean_keys, recompute)

    def step_shapes(self, sequences: int, length: int, documents: bool) -> StepShapes | None:
        """See `ModelSpec`."""
        if getattr(self.transformers, "num_attention_heads", None) is None or self.idle_ops >= {*BACKENDS}:
            return None
        return step_shapes_of(self.transformers, sequences, length, documents)
