"""The Hugging Face baselines: transformers' Llama with our initial weights, trained as its users train it.

The strong baselines do not use transformers' attention by the name "sdpa": when it is traced, transformers 5 makes a
mask of S x S for every sequence, which keeps scaled_dot_product_attention from its flash kernels. Under a name that has
no function for masks none is made, and the same call is given `is_causal=True`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from litespark.benchmarks.step.training import TextbookTraining
from litespark.benchmarks.step.variants import HuggingFaceSetup
from litespark.data.batch import TokenBatch
from litespark.metrics.environment import version_of
from litespark.models.huggingface.apply import apply
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.huggingface import huggingface_parts
from litespark.models.llama.huggingface_config import to_huggingface_config
from litespark.models.llama.model import Llama
from litespark.models.spec import Recompute
from litespark.run.config import Parts
from litespark.run.preflight import Machine
from litespark.training.optim import parameter_groups

_CAUSAL = "litespark_causal_sdpa"


class HuggingFaceTraining(TextbookTraining):
    """A baseline with its optimizer; the initial weights are copied from `weights`."""

    def __init__(
        self, setup: HuggingFaceSetup, parts: Parts, machine: Machine, weights: Llama, recompute: Recompute
    ) -> None:
        if recompute not in ("none", "full"):
            raise ValueError(f"recompute: got {recompute!r}, expected none or full for a Hugging Face model")
        super().__init__(parts, machine)
        self.recompute = recompute
        self.model = build_model(parts.llama, setup.attention, machine.device)
        copy_weights(weights, self.model)
        if recompute == "full":
            # the newer name for the same; use_reentrant=False is what transformers 5 takes by itself
            enable = getattr(self.model, "activation_checkpointing_enable", None)
            (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        if setup.liger:
            from liger_kernel.transformers import apply_liger_kernel_to_llama

            apply_liger_kernel_to_llama(model=self.model)
        if setup.fp8:
            convert_to_fp8(self.model)
        if setup.applied:
            sizes = {"sequences": parts.data.micro_batch_size, "length": parts.data.seq_len}
            apply(self.model, **sizes, autocast=torch.bfloat16 if machine.precision == "bf16" else None)
        optim = parts.optim
        groups = parameter_groups(self.model, optim.weight_decay)
        fused = True if setup.fused else None  # PyTorch chooses: foreach on a GPU, a loop on a CPU
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)
        self.forward: Any = torch.compile(self.model) if setup.compiled else self.model
        self.detail = _detail(setup)
        self.model.train()

    def loss(self, batch: TokenBatch, tokens: Tensor, *, compiled: bool) -> Tensor:
        # shift_labels are taken as they are, and labels alone would be shifted a second time
        labels = {"labels": batch.labels, "shift_labels": batch.labels, "num_items_in_batch": tokens}
        loss: Tensor = (self.forward if compiled else self.model)(batch.tokens, **labels, use_cache=False).loss
        return loss


def build_model(config: LlamaConfig, attention: str, device: torch.device) -> Any:
    """A LlamaForCausalLM of our sizes on `device` in fp32, its weights random; `attention` as in `HuggingFaceSetup`."""
    import transformers

    attention = causal_attention() if attention == "causal" else attention
    theirs = transformers.LlamaConfig.from_dict(
        {**to_huggingface_config(config, torch.float32, None, None), "use_cache": False}, attn_implementation=attention
    )
    with torch.device(device):
        return transformers.LlamaForCausalLM(theirs)


def causal_attention() -> str:
    """The name of SDPA that is never given a mask, made known to transformers."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(_CAUSAL, sdpa_attention_forward)
    return _CAUSAL


def copy_weights(source: Llama, target: Any) -> None:
    """Give transformers' model the weights of ours, in place."""
    theirs = dict(target.named_parameters())
    parts = huggingface_parts(source.config)
    expected = {name for pieces in parts.values() for name, _ in pieces}
    if expected != set(theirs):
        raise ValueError(
            f"transformers' Llama has the parameters {sorted(set(theirs) - expected)} too many and lacks "
            f"{sorted(expected - set(theirs))}; this version of transformers is not known, take another"
        )
    with torch.no_grad():
        for name, pieces in parts.items():
            rows = source.get_parameter(name).split([count for _, count in pieces])
            for (piece, _), values in zip(pieces, rows, strict=True):
                theirs[piece].copy_(values)


def convert_to_fp8(model: nn.Module) -> None:
    """Let the blocks' products compute in torchao's tensorwise float8, in place; the head's stays as it is."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name("tensorwise")
    convert_to_float8_training(model, config=config, module_filter_fn=lambda module, name: ".layers." in f".{name}")


def _detail(setup: HuggingFaceSetup) -> str:
    import transformers

    adamw = "fused AdamW" if setup.fused else "PyTorch's default AdamW"
    words = [f"transformers {transformers.__version__}", f"{setup.attention} attention", adamw]
    words += ["torch.compile"] if setup.compiled else []
    words += [f"torchao {version_of('torchao')}"] if setup.fp8 else []
    words += ["litespark.apply"] if setup.applied else []
    words += [f"liger-kernel {version_of('liger-kernel')}"] if setup.liger else []
    return ", ".join(words)
