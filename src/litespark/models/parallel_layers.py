"""Layers of which each rank of a tensor mesh computes a part (Shoeybi et al., arXiv:1909.08053, with the sequence
parallelism of Korthikanti et al., arXiv:2205.05198).

The residual stream is cut along the sequence: a rank has (B, S/T, D) of it. Before a matrix cut by rows of its outputs
the sequence is gathered, behind one cut by its inputs the sums over the ranks are scattered along the sequence again;
the backward pass does the reverse. Parameters are DTensors, over a mesh of one dimension with T ranks.

B batch, S sequence length, T ranks (N tokens), D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement
from torch.nn import functional

from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses
from litespark.ops.precision import compute_dtype

# of the logits of a chunk of tokens on each rank, in fp32
_CHUNK_BYTES = 2**27


class Part(NamedTuple):
    """A parameter that is rows of one that is whole without tensor parallelism."""

    whole: str
    first: int
    rows: int
    of_rows: int


def gathered(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """(B, S/T, D) of this rank -> (B, S, D), computed with differently by each rank: gradients are summed."""
    return DTensor.from_local(x, mesh, [Shard(1)], run_check=False).redistribute(placements=[Replicate()]).to_local(
        grad_placements=[Partial()]
    )  # fmt: skip


def scattered(y: Tensor, mesh: DeviceMesh) -> Tensor:
    """(B, S, D), of which the sum over ranks is meant -> (B, S/T, D) of this rank."""
    return DTensor.from_local(y, mesh, [Partial()], run_check=False).redistribute(placements=[Shard(1)]).to_local()


def cut(tensor: Tensor, mesh: DeviceMesh, placement: Placement) -> nn.Parameter:
    """A parameter of a built model as one that is cut over `mesh`; a tensor on meta stays there."""
    whole = tensor.detach()
    return nn.Parameter(distribute_tensor(whole, mesh, [placement], src_data_rank=None), tensor.requires_grad)


def local(parameter: Tensor, *, of_tokens: bool = False) -> Tensor:
    """What this rank computes with; `of_tokens`: each rank with its own tokens, over which gradients are summed."""
    assert isinstance(parameter, DTensor)
    return parameter.to_local(grad_placements=[Partial()] if of_tokens else None)


class ColumnParallel(nn.Module):
    """(B, S/T, K) -> (B, S, N/T): each rank has some of the rows of each of the matrices that `layer` stores in one."""

    def __init__(self, layer: nn.Linear, rows: Sequence[int], mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh, self.rows = mesh, tuple(rows)
        self.weights = nn.ParameterList(cut(part, mesh, Shard(0)) for part in layer.weight.split(self.rows))
        biases = () if layer.bias is None else layer.bias.split(self.rows)
        self.biases = nn.ParameterList(cut(part, mesh, Shard(0)) for part in biases)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([local(part) for part in self.weights])
        bias = torch.cat([local(part) for part in self.biases]).to(weight.dtype) if len(self.biases) else None
        return functional.linear(gathered(x, self.mesh), weight, bias)

    def parts(self) -> dict[str, Part]:
        """Its parameters by name -> the rows of `weight` and `bias` that they are."""
        found, begin = dict[str, Part](), 0
        for index, rows in enumerate(self.rows):
            for ours, whole in (("weights", "weight"), ("biases", "bias")):
                if len(getattr(self, ours)):
                    found[f"{ours}.{index}"] = Part(whole, begin, rows, sum(self.rows))
            begin += rows
        return found


class RowParallel(nn.Module):
    """(B, S, K/T) -> (B, S/T, N): each rank has some of the columns of the matrix, and adds the bias to its tokens."""

    def __init__(self, layer: nn.Linear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh, self.in_features, self.out_features = mesh, layer.in_features, layer.out_features
        self.weight = cut(layer.weight, mesh, Shard(1))
        self.bias = None if layer.bias is None else cut(layer.bias, mesh, Replicate())

    def forward(self, x: Tensor) -> Tensor:
        return self.summed(functional.linear(x, local(self.weight)))

    def summed(self, y: Tensor) -> Tensor:
        """From the products of each rank, (B, S, N)."""
        y = scattered(y, self.mesh)
        return y if self.bias is None else y + local(self.bias, of_tokens=True).to(y.dtype)


class ParallelEmbedding(nn.Module):
    """(B, S) ids, the same on all ranks -> (B, S/T, D): each rank has some of the rows of the table."""

    def __init__(self, embedding: nn.Embedding, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        self.weight = cut(embedding.weight, mesh, Shard(0))

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] % self.mesh.size():
            raise ValueError(
                f"got sequences of {tokens.shape[1]} tokens, expected a multiple of the {self.mesh.size()} ranks that "
                "share each of them"
            )
        rows = local(self.weight)
        here = tokens - len(rows) * self.mesh.get_local_rank()
        absent = (here < 0) | (here >= len(rows))
        found = functional.embedding(here.masked_fill(absent, 0), rows)
        return scattered(found.masked_fill(absent.unsqueeze(-1), 0.0), self.mesh)


def parallel_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    mesh: DeviceMesh,
    reduction: Reduction = "sum",
    ignore_index: int = -100,
) -> Tensor | TokenLosses:
    """As `litespark.ops.linear_cross_entropy.reference`, of `hidden` (B, S/T, D) and a `weight` cut by rows.

    Ranks exchange the maximum, the sum of exponentials and the label's logit of each token, and no logits. These are
    made again in the backward pass, chunk by chunk.
    """
    tokens = gathered(hidden, mesh).flatten(0, -2)
    nats, correct = _CrossEntropy.apply(tokens, local(weight), labels.flatten(), mesh, ignore_index)
    if reduction == "none":
        return TokenLosses(nats.view(labels.shape), correct.view(labels.shape))
    total = nats.sum()
    return total if reduction == "sum" else total / (labels != ignore_index).sum().clamp(min=1)


class _CrossEntropy(torch.autograd.Function):
    """hidden (N, D), weight (V/T, D), labels (N) -> nats (N) in fp32, and whether the label is the likeliest."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, mesh: DeviceMesh, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes = hidden.dtype, weight.dtype
        dtype = compute_dtype(hidden)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        here = labels - len(weight) * mesh.get_local_rank()
        here = torch.where((here >= 0) & (here < len(weight)) & (labels != ignore_index), here, -1)
        largest, sums, of_label = hidden.new_empty((3, len(labels)), dtype=torch.float32)
        for chunk in _chunks(hidden, weight):
            logits = (hidden[chunk] @ weight.t()).float()
            largest[chunk] = _over_ranks(logits.amax(dim=1), mesh, "max")
            of_label[chunk] = _at_label(logits, here[chunk])
            sums[chunk] = logits.sub_(largest[chunk].unsqueeze(1)).exp_().sum(dim=1)
        sums, of_label = _over_ranks(torch.stack([sums, of_label]), mesh, "sum")
        log_sums = sums.log() + largest
        counts = labels != ignore_index
        ctx.save_for_backward(hidden, weight, here, log_sums, counts)
        correct = counts & (of_label >= largest)
        ctx.mark_non_differentiable(correct)
        return torch.where(counts, log_sums - of_label, 0.0), correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, here, log_sums, counts = ctx.saved_tensors
        upstream = torch.where(counts, upstream, 0.0).unsqueeze(1)
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for chunk in _chunks(hidden, weight):
            logits = (hidden[chunk] @ weight.t()).float()
            gradient = logits.sub_(log_sums[chunk].unsqueeze(1)).exp_()
            label = here[chunk].unsqueeze(1)
            gradient.scatter_add_(1, label.clamp(min=0), -(label >= 0).float())
            gradient = gradient.mul_(upstream[chunk]).to(hidden.dtype)
            if of_hidden is not None:
                torch.mm(gradient, weight, out=of_hidden[chunk])
            if of_weight is not None:
                of_weight += gradient.t() @ hidden[chunk]
        dtypes = zip((of_hidden, of_weight), ctx.dtypes, strict=True)
        return *(None if of is None else of.to(dtype) for of, dtype in dtypes), None, None, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(1, _CHUNK_BYTES // (4 * len(weight)))
    return [slice(begin, begin + size) for begin in range(0, len(hidden), size)]


def _at_label(logits: Tensor, here: Tensor) -> Tensor:
    """The logit of each token's label, 0 where another rank has it."""
    return torch.where(here >= 0, logits.gather(1, here.clamp(min=0).unsqueeze(1)).squeeze(1), 0.0)


def _over_ranks(values: Tensor, mesh: DeviceMesh, reduction: str) -> Tensor:
    return DTensor.from_local(values, mesh, [Partial(reduction)], run_check=False).full_tensor()


def parts_of(model: nn.Module) -> dict[str, Part]:
    """The parameters of `model` that are rows of another, by name; their wholes have the names without tensor
    parallelism."""
    found = dict[str, Part]()
    for name, module in model.named_modules():
        if isinstance(module, ColumnParallel):
            for ours, part in module.parts().items():
                found[f"{name}.{ours}"] = part._replace(whole=f"{name}.{part.whole}")
    return found
