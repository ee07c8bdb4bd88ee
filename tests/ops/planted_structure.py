"""Backends that are wrong in one structural case only, and right where a run does not come to it."""

import torch

from litespark.ops.attention.documents import Documents
from litespark.ops.attention.reference import attention
from litespark.ops.fp8.reference import Pieces
from litespark.ops.rms_norm import kernels as rms_norm_kernels
from litespark.ops.rms_norm.reference import rms_norm
from litespark.ops.rope.reference import rope_qkv
from litespark.ops.swiglu import kernels as swiglu_kernels
from litespark.ops.swiglu.reference import swiglu
from litespark.ops.triton_support import target_of

BLOCK = 32  # of attention in Triton's interpreter


def _scaled(output, rows=slice(None), positions=slice(None), heads=slice(None)):
    """(B, S, H, Dh) that is a tenth too large there."""
    factor = torch.ones_like(output)
    factor[rows, positions, heads] = 1.1
    return output * factor


def second_sequence(query, key, value, documents=None):
    return _scaled(attention(query, key, value, documents), rows=slice(1, None))


def second_key_value_head(query, key, value, documents=None):
    group = query.shape[2] // key.shape[2]
    return _scaled(attention(query, key, value, documents), heads=slice(group, None))


def gradient_of_second_key_value_head(query, key, value, documents=None):
    """Of the values alone, as from a kernel that adds up the heads of a group."""
    value = torch.cat([value[:, :, :1], value[:, :, 1:].detach()], dim=2)
    return attention(query, key, value, documents)


def second_head_of_a_group(query, key, value, documents=None):
    return _scaled(attention(query, key, value, documents), heads=slice(1, None, query.shape[2] // key.shape[2]))


def third_block(query, key, value, documents=None):
    return _scaled(attention(query, key, value, documents), positions=slice(2 * BLOCK, 3 * BLOCK))


def last_block_not_full(query, key, value, documents=None):
    return _scaled(attention(query, key, value, documents), positions=slice(query.shape[1] // BLOCK * BLOCK, None))


def border_inside_a_block(query, key, value, documents=None):
    """A document begins where its block does."""
    return attention(query, key, value, _with_first_keys(documents, lambda first: first // BLOCK * BLOCK))


def border_between_blocks(query, key, value, documents=None):
    """A document that begins with a block begins with its second token."""
    return attention(query, key, value, _with_first_keys(documents, lambda first: first + (first % BLOCK == 0)))


def _with_first_keys(documents, change):
    if documents is None:
        return None
    positions = torch.arange(documents.index.shape[1])
    first = torch.minimum(change(documents.first_keys()), positions)
    return Documents(torch.where(documents.first_keys() == 0, 0, first))


def tables_of_the_first_sequence(qkv, cos, sin, num_kv_heads):
    return rope_qkv(qkv, cos[:1], sin[:1], num_kv_heads)


def second_block_of_heads(qkv, cos, sin, num_kv_heads):
    query, key, value = rope_qkv(qkv, cos, sin, num_kv_heads)
    return _scaled(query, heads=slice(8, None)), key, value


def second_block_of_a_row(gate_up):
    product = swiglu(gate_up)
    block = swiglu_kernels.tiling(product.shape[-1], target_of(product.device)).block
    return torch.cat([product[..., :block], 1.1 * product[..., block:]], dim=-1)


def _rows_of_first_tiles(rows, width):
    tile = rms_norm_kernels.tiling(width, target_of(torch.device("cpu")))
    return tile.rows * rms_norm_kernels.backward_programs(rows, tile, target_of(torch.device("cpu")))


def second_tile_of_a_program(x, weight, eps):
    """Adds nothing to the gradient of the weight."""
    flat = x.flatten(0, 1)
    rows = _rows_of_first_tiles(*flat.shape)
    parts = rms_norm(flat[:rows], weight, eps), rms_norm(flat[rows:], weight.detach(), eps)
    return torch.cat(parts).view(x.shape)


def last_tile_not_full(x, weight, eps):
    normed = rms_norm(x.flatten(0, 1), weight, eps)
    tile = rms_norm_kernels.tiling(x.shape[-1], target_of(x.device))
    whole = len(normed) // tile.rows * tile.rows
    return torch.cat([normed[:whole], 1.1 * normed[whole:]]).view(x.shape)


class SecondTileOfAProgram(Pieces):
    """Adds nothing to the gradient of the weight."""

    def add_rms_norm_backward(self, norm_gradient, stream_gradient, stream, weight, inverse_rms, *rest, dtype):
        inputs = norm_gradient, stream_gradient, stream, weight, inverse_rms, *rest
        gradient, operand, _ = super().add_rms_norm_backward(*inputs, dtype=dtype)
        rows = _rows_of_first_tiles(*stream.shape)
        part = norm_gradient[:rows].float() * stream[:rows].float() * inverse_rms[:rows, None]
        return gradient, operand, part.sum(dim=0).to(weight.dtype)


SECOND_TILE_OF_A_PROGRAM = SecondTileOfAProgram()
