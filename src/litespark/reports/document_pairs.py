"""Attention within documents beside that over whole sequences: counted pairs, and the time that they let expect."""

import re
from itertools import zip_longest

import numpy as np
import torch

from litespark.data.contents import PreparedData
from litespark.ops.attention.configurations import candidates
from litespark.ops.attention.document_pairs import (
    Lengths,
    cut,
    lengths_in,
    lengths_of,
    pairs_computed,
    pairs_of_documents,
    pairs_seen,
)
from litespark.ops.occupancy import BOUND_TARGET
from litespark.ops.shapes import StepShapes
from litespark.ops.triton_support import TARGETS
from litespark.reports.quantities import percent, short
from litespark.reports.table import Column, Table, texts

# products of one pair, forward and backward
_PRODUCTS = (2, 5)
# FLOP/s forward and backward of an H200 over whole sequences, all estimates: cuDNN's (sdpa) and ours by what their
# compiled kernels let expect; FlashAttention-2's (varlen) by its ratio to cuDNN's on Hopper at 4k (Shah et al.,
# arXiv:2407.08608, figures 5 and 6); that of flex attention by its ratio to it (Dong et al., arXiv:2412.05496)
RATES = {
    "sdpa": (550e12, 450e12), "varlen": (330e12, 280e12), "triton": (425e12, 295e12), "flex": (300e12, 240e12),
}  # fmt: skip
# queries x keys of the blocks, forward and backward; of FlashAttention-2 those of head_dim 128
_BLOCKS = {"varlen": ((128, 64), (64, 128)), "flex": ((128, 128), (128, 128))}

_SEQUENCES = 2000


def within_documents(documents: str, shapes: StepShapes, layers: int) -> Table:
    """The table for log-normal lengths, "MEAN,SPREAD", or for those of the training documents of a prepared folder."""
    tokens = _SEQUENCES * shapes.length
    if numbers := re.fullmatch(r"([\d.]+),([\d.]+)", documents):
        lengths = lengths_of(float(numbers[1]), float(numbers[2]), tokens)
        return table(lengths, shapes, layers, f"log-normal lengths {documents}")
    counts = [domain.lengths for domain in PreparedData.read(documents).domains_of("train").values()]
    histogram = [sum(bins) for bins in zip_longest(*counts, fillvalue=0)]
    if not any(histogram):
        raise ValueError(
            f"--documents {documents}: got a folder whose documents' lengths were not counted, expected one that "
            "`litespark prepare` wrote; prepare it again, or give MEAN,SPREAD"
        )
    lengths = lengths_in(histogram, tokens)
    return table(lengths, shapes, layers, f"the lengths in {documents}")


def table(lengths: Lengths, shapes: StepShapes, layers: int, what: str) -> Table:
    """One micro-batch of `shapes` in bf16, in all `layers`, over sequences of documents of `lengths`."""
    first = cut(lengths, shapes.length)
    whole = np.zeros_like(first)
    pairs = pairs_seen(whole)
    # of one product over the pairs of whole sequences
    flops = 2 * shapes.num_heads * shapes.head_dim * layers * shapes.sequences * pairs / len(first)

    def row(name: str, documents: Lengths) -> tuple[object, ...]:
        count = pairs_of_documents if name == "varlen" else pairs_computed
        blocks = _blocks(name, shapes.head_dim)
        computed = [count(documents, *block) for block in blocks]
        shares = [of_documents / count(whole, *block) for of_documents, block in zip(computed, blocks, strict=True)]
        seconds = [flops * a * b / c for a, b, c in zip(_PRODUCTS, shares, RATES[name], strict=True)]
        return pairs_seen(documents) / pairs, *(number / pairs for number in computed), 1e3 * sum(seconds)

    documents = float((first == np.arange(shapes.length)).sum() / len(first))
    columns = (Column(name, percent) for name in ("pairs seen", "computed forward", "backward"))
    return Table(
        [*texts("attention", "backend"), *columns, Column("ms a micro-batch", short)],
        [
            ("over whole sequences", "sdpa", *row("sdpa", whole)),
            *(("within documents", name, *row(name, first)) for name in RATES if name != "sdpa"),
        ],
        title=f"Attention within documents of {what}: {documents:.1f} documents in each of {len(first):,} sequences",
        notes=[
            "pairs: of those that whole sequences have under the causal mask; computed: those in the blocks of the "
            "kernels; ms: estimated from these and stated rates, not measured. sdpa with documents takes a mask of all "
            "pairs, and no fast kernel"
        ],
    )


def _blocks(name: str, head_dim: int) -> tuple[tuple[int, int], ...]:
    if name != "triton":
        return _BLOCKS.get(name, _BLOCKS["flex"])
    ours = candidates(TARGETS[BOUND_TARGET], head_dim, torch.bfloat16)[0]
    return tuple((launch.queries, launch.keys) for launch in (ours.forward, ours.key_value_gradient))
