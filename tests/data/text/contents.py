"""Bytes of files of records, for the tests of this folder."""

from __future__ import annotations

import json
from typing import Any


def lines(texts: list[Any], end: str = "\n", field: str = "text", **options: Any) -> bytes:
    """JSON lines with a text each."""
    return "".join(json.dumps({field: text}, **options) + end for text in texts).encode()


def table(columns: Any) -> bytes:
    """A parquet file with these columns, or with one of texts."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns if isinstance(columns, dict) else {"text": columns}), sink)
    return bytes(sink.getvalue().to_pybytes())
