"""Which examples share a packed sequence: best fit over a whole split, fixed by the lengths and the sequence length."""

from litespark.data.examples.config import Format
from litespark.data.prepare.packing import best_fit_decreasing


def places_of(lengths: list[int]) -> int:
    """Places that the sequences of an example take: of a pair with the last ids, at which it may be scored."""
    return sum(lengths) - (len(lengths) == 1)


def rows_of(lengths: list[list[int]], kind: Format, seq_len: int, shared: list[int] | None = None) -> list[list[int]]:
    """The numbers of the examples of each packed sequence; a prompt has one for itself, since answers differ in length.

    `lengths` are the ids of each sequence of each example, which fit into `seq_len`; `shared` places of
    each, at its beginning, are laid out once.
    """
    if kind == "prompts":
        return [[number] for number in range(len(lengths))]
    once = [0] * len(lengths) if shared is None else shared
    places = [places_of(of) - (len(of) - 1) * common for of, common in zip(lengths, once, strict=True)]
    return best_fit_decreasing(places, seq_len)
