"""What `auto` times of a set of pieces: the producers of a block whose results are cast, forward and backward."""

from collections.abc import Callable

import torch

from litespark.ops.fp8.formats import E5M2
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.verification_pieces import pieces_to_verify
from litespark.ops.shapes import Place

# of a block; that behind the rotation of queries and keys casts no gradient
_CALLS = {"add_rms_norm": 2}


def block(place: Place) -> Callable[[Pieces], Callable[[], object]]:
    """A run of a block's producers by any set of pieces, at the sizes of `place`, with scales that are known."""
    gradients = E5M2 if place.fp8 is None else place.fp8.gradient_format
    producers = [piece for piece in pieces_to_verify(place, (gradients,)) if not piece.exact]
    scale = torch.ones((), device=place.device)
    amax = torch.zeros((), dtype=torch.int32, device=place.device)

    def run(pieces: Pieces) -> None:
        for piece in producers:
            for _ in range(_CALLS.get(piece.name, 1)):
                piece.call(pieces, piece.inputs, Quantisation(piece.formats[0], scale, amax=amax), None, place.dtype)

    return lambda pieces: lambda: run(pieces)
