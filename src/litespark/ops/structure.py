"""What a kernel goes through at some sizes and not at others: the structural cases that a verification has to reach.

A kernel may be right in the first chunk, tile or head and wrong in all others. Each backend that has such cases names
those that it has at given sizes (`structure` in `litespark.ops.backend.BACKENDS`), from the same functions that its
launches are configured by.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_rows_at_once: int | None = None
_32_BITS = 2**31


def in_parts(part: str, size: int, at_once: int, most: int = 2) -> set[str]:
    """The cases of `size` things that are dealt in parts of `at_once`: parts up to `most`, and a last one not full."""
    parts = -(-size // at_once)
    cases = {f"a {ordinal} {part}" for number, ordinal in ((2, "second"), (3, "third")) if number <= min(parts, most)}
    return cases | ({f"a last {part} that is not full"} if size % at_once else set())


def far(values: int) -> set[str]:
    """The case of a tensor of so many values: places that 32 bits do not hold."""
    return {f"a tensor of more than {_32_BITS} values"} if values > _32_BITS else set()


@contextmanager
def rows_at_once(rows: int | None) -> Iterator[None]:
    """Within it an op takes at most so many rows at once, on whatever thread; None: as many as usual.

    So that a verification comes to second chunks, and to second tiles of a program, with the rows that it has room for.
    """
    global _rows_at_once
    before, _rows_at_once = _rows_at_once, rows
    try:
        yield
    finally:
        _rows_at_once = before


def at_once(usual: int) -> int:
    """How many rows an op takes at once that usually takes so many."""
    return usual if _rows_at_once is None else min(usual, _rows_at_once)
