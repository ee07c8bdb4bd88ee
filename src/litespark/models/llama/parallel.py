"""The native Llama over the ranks of a tensor mesh, made of `models.parallel_layers`."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard

from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import MLP, Attention, Block, Llama, RMSNorm
from litespark.models.parallel_layers import (
    ColumnParallel,
    ParallelEmbedding,
    RowParallel,
    cut,
    local,
    parallel_cross_entropy,
)


def why_not_parallel(config: LlamaConfig, size: int, shards: int = 1) -> str | None:
    """Why `size` ranks cannot compute the model together, each with one of `shards` of its part; None: they can.

    The parts of the rows of a matrix have to be equal: PyTorch 2.14 misplaces unequal ones that are cut again.
    """
    if config.num_labels is not None:
        return "a head of labels, which has too few rows to be cut"
    assert config.head_dim is not None
    sizes = {"num_heads": config.head_dim, "num_kv_heads": config.head_dim, "intermediate_size": 1, "vocab_size": 1}
    for name, rows in sizes.items():
        value = getattr(config, name)
        if value % size:
            return f"model.{name}={value}, which {size} ranks cannot share equally"
        if value * rows % (size * shards):
            return f"model.{name}={value}, whose {value * rows} rows cannot be cut into {size} x {shards} equal parts"
    return None


def parallelise(model: Llama, mesh: DeviceMesh) -> None:
    """Cut a built model over the ranks of `mesh`, in place; its labels give the same loss on each of them."""
    config, size = model.config, mesh.size()
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    model.embedding = ParallelEmbedding(model.embedding, mesh)  # type: ignore[assignment]
    for block in model.blocks:
        assert isinstance(block, Block)
        attention: Any = block.attention
        attention.qkv = ColumnParallel(attention.qkv, (queries, keys, keys), mesh)
        attention.output = RowParallel(attention.output, mesh)
        attention.num_kv_heads //= size
        mlp: Any = block.mlp
        mlp.gate_up = ColumnParallel(mlp.gate_up, (config.intermediate_size,) * 2, mesh)
        mlp.down = RowParallel(mlp.down, mesh)
        # the same modules with another way through them
        attention.__class__, mlp.__class__ = ParallelAttention, ParallelMLP
    for norm in [module for module in model.modules() if isinstance(module, RMSNorm)]:
        norm.weight = cut(norm.weight, mesh, Replicate())
        norm.__class__ = ParallelNorm
    if model.head is not None:
        model.head.weight = cut(model.head.weight, mesh, Shard(0))
    model.ops = replace(model.ops, linear_cross_entropy=partial(parallel_cross_entropy, mesh=mesh))


class ParallelNorm(RMSNorm):
    """Of the tokens of this rank."""

    def forward(self, x: Tensor, update: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight = local(self.weight, of_tokens=True)
        if update is None:
            return x, self.ops.rms_norm(x, weight, self.eps)
        return self.ops.add_rms_norm(x, update, weight, self.eps)


class ParallelAttention(Attention):
    """(B, S/T, D) -> (B, S/T, D), by H/T query heads of this rank and their K/T key and value heads."""

    def matrices(self) -> dict[Tensor, tuple[int, ...]]:
        return _matrices(self.qkv, self.output)


class ParallelMLP(MLP):
    """(B, S/T, D) -> (B, S/T, D), by F/T values of this rank."""

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute == "swiglu":
            down: Any = self.down
            y: Tensor = down.summed(self.ops.swiglu_linear(self.gate_up(x), local(down.weight)))
            return y
        return super().forward(x)

    def matrices(self) -> dict[Tensor, tuple[int, ...]]:
        return _matrices(self.gate_up, self.down)


def _matrices(into: nn.Module, out: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """See `HasMatrices`: each part is a matrix by itself."""
    assert isinstance(into, ColumnParallel)
    assert isinstance(out, RowParallel)
    return {**{part: (part.shape[0],) for part in into.weights}, out.weight: (out.out_features,)}
