"""The structural cases of attention: sequences, heads, blocks of queries and keys, and documents within them."""

import itertools
from dataclasses import astuple
from functools import partial

import torch
from torch import Tensor

from litespark.device import device_of
from litespark.ops.attention.configurations import configuration_for
from litespark.ops.attention.documents import Documents, document_index
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.structure import far, in_parts

# of kernels that are not ours: we have seen no larger ones; and on a CPU, where verifications are small
_BLOCK, _BLOCK_OF_CPU = 128, 32


def structure(place: Place) -> set[str]:
    """Of kernels whose blocks are not known."""
    return _structure(place.shapes, {_BLOCK if device_of(place.device).is_accelerator else _BLOCK_OF_CPU})


def structure_triton(place: Place, number: int = 0) -> set[str]:
    """Of our kernels in the configuration of that number, with its blocks of queries and of keys."""
    configuration = configuration_for(place.device, place.shapes.head_dim, place.dtype, number)
    launches = configuration.forward, configuration.query_gradient, configuration.key_value_gradient
    cases = _structure(place.shapes, {size for launch in launches for size in astuple(launch)[:2]})
    # lengths that 16 divides are compiled by themselves
    return cases | (
        {"a length that 16 divides"} if not place.shapes.length % 16 else {"a length that 16 does not divide"}
    )


structure_triton_2 = partial(structure_triton, number=1)


def _structure(shapes: StepShapes, blocks: set[int]) -> set[str]:
    cases = in_parts("sequence", shapes.sequences, 1) | in_parts("key/value head", shapes.num_kv_heads, 1)
    cases |= in_parts("query head of a group", shapes.num_heads // shapes.num_kv_heads, 1)
    cases |= far(shapes.tokens * shapes.num_heads * shapes.head_dim)
    index = document_index(shapes.sequences, shapes.length, torch.device("cpu"))
    for block in blocks:
        cases |= in_parts(f"block of {block}", shapes.length, block, most=3)
        if shapes.documents:
            cases |= of_documents(index, block)
    return cases


def of_documents(index: Tensor, block: int) -> set[str]:
    """How the documents of `index` (B, S) lie in blocks of so many positions."""
    starts = Documents(index).cu_seqlens().tolist()
    cases = set()
    for start, end in itertools.pairwise(starts):
        first = start % index.shape[1]
        last = first + end - start - 1
        if first:
            cases.add(f"a document that begins {'inside' if first % block else 'with'} a block of {block}")
        if first // block == last // block:
            cases.add(f"a document within a block of {block}")
        elif first and last // block - -(-first // block) >= 1:
            cases.add(f"a document over a whole block of {block} and the next")
    return cases
