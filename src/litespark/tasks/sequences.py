"""How tasks call a model: the losses of tokens, and the log-probabilities of the sequences of examples.

B packed sequences of a micro-batch, S their length, N sequences of examples in them.
"""

from torch import Tensor, nn

from litespark.data.batch import TokenBatch
from litespark.data.examples.batch import ExampleBatch
from litespark.ops.linear_cross_entropy.reference import TokenLosses


def layout(batch: TokenBatch) -> dict[str, Tensor | None]:
    """What a model is told of where tokens stand."""
    told = {"positions": batch.positions, "documents": batch.documents, "cu_seqlens": batch.cu_seqlens}
    return told if batch.branches is None else {**told, "branches": batch.branches}


def token_losses(model: nn.Module, batch: TokenBatch, temperature: float = 1.0) -> TokenLosses:
    """Nats (B, S) fp32 and hits (B, S) bool of each token, where `temperature` divides the logits."""
    hotter = {} if temperature == 1.0 else {"temperature": temperature}
    losses = model(batch.tokens, batch.labels, **layout(batch), reduction="none", **hotter)
    if not isinstance(losses, TokenLosses):
        raise ValueError(
            f'{type(model).__name__}: got {type(losses).__name__} for reduction="none", expected TokenLosses of '
            f"{TokenLosses.__module__}; return the nats and hits of each token in it"
        )
    return losses


def examples_in(batch: TokenBatch, task: str) -> ExampleBatch:
    """`batch`, if it is one of examples; a ValueError where it is text alone, which `task` cannot learn from."""
    if not isinstance(batch, ExampleBatch):
        raise ValueError(
            f"task={task}: got batches of text ({type(batch).__name__}), expected examples; choose data that has them, "
            "such as data=conversations or data=pairs"
        )
    return batch


def pairs_in(batch: TokenBatch, task: str, data: str = "pairs") -> ExampleBatch:
    """`batch`, if each of its examples has two sequences, as those of `data` have; else a ValueError."""
    batch = examples_in(batch, task)
    if batch.sequence_count != 2 * batch.example_count:
        raise ValueError(
            f"task={task}: got {batch.sequence_count} sequences of {batch.example_count} examples, expected two of "
            f"each; choose data={data}"
        )
    return batch


def log_probabilities(model: nn.Module, batch: ExampleBatch) -> Tensor:
    """(N,) fp32: the log-probability of each sequence, Σ weight · log p(label); a weight is 1 where a label counts."""
    return -batch.sums(token_losses(model, batch).nats * batch.weights)


def reference_of(batch: ExampleBatch, task: str) -> Tensor:
    """(N,) fp32, what the reference model gives the sequences of `batch`; a ValueError where nothing computed it."""
    if batch.reference is None:
        raise ValueError(
            f"task={task}: got a batch without log-probabilities of a reference model, expected those that a run "
            "computes before its first step; train or resume with `python train.py`"
        )
    return batch.reference
