"""Examples in Arrow's file format, mapped into memory: a record batch a thousand examples, an example a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.examples.example import Example
from litespark.data.libraries import library

FILE = "examples.arrow"
_BATCH = 1000
_SETTING = "data.kind=examples"


class ExampleWriter:
    """Writes examples into a file, in the order in which they are added."""

    def __init__(self, path: Path) -> None:
        self._arrow: Any = library("pyarrow", setting=_SETTING)
        arrow = self._arrow
        self._schema = arrow.schema(
            [
                ("lengths", arrow.list_(arrow.int32())),
                ("ids", arrow.list_(arrow.int32())),
                ("weights", arrow.list_(arrow.float32())),
                ("about", arrow.string()),
                ("shared", arrow.int32()),
            ]
        )
        self._file = library("pyarrow.ipc", setting=_SETTING).new_file(str(path), self._schema)
        self._held: list[Example] = []

    def add(self, example: Example) -> None:
        self._held.append(example)
        if len(self._held) == _BATCH:
            self._flush()

    def close(self) -> None:
        if self._held:
            self._flush()
        self._file.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        lengths = [np.array([ids.size for ids in example.sequences], dtype=np.int32) for example in held]
        columns = [
            self._listed(lengths),
            self._listed([np.concatenate(example.sequences) for example in held]),
            self._listed([np.concatenate(example.weights) for example in held]),
            [json.dumps(dict(example.about), sort_keys=True, default=str) for example in held],
            [example.shared for example in held],
        ]
        arrays = [self._arrow.array(of, type=field.type) if isinstance(of, list) else of
                  for of, field in zip(columns, self._schema, strict=True)]  # fmt: skip
        self._file.write_batch(self._arrow.record_batch(arrays, schema=self._schema))

    def _listed(self, arrays: list[NDArray[Any]]) -> Any:
        offsets = np.cumsum([0, *(array.size for array in arrays)], dtype=np.int32)
        return self._arrow.ListArray.from_arrays(offsets, self._arrow.array(np.concatenate(arrays)))


class ExampleFile:
    """The examples of a file by their number; opened where they are read, in each process anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batches: list[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None}

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._opened())

    def __getitem__(self, number: int) -> Example:
        batch, row = self._opened()[number // _BATCH], number % _BATCH
        lengths, ids, weights = (_row(batch.column(name), row) for name in ("lengths", "ids", "weights"))
        cuts = np.cumsum(lengths)[:-1]
        about = json.loads(batch.column("about")[row].as_py())
        return Example(tuple(np.split(ids, cuts)), tuple(np.split(weights, cuts)), about)

    def lengths(self) -> list[list[int]]:
        """The ids of each sequence of each example."""
        return [row for batch in self._opened() for row in batch.column("lengths").to_pylist()]

    def shared(self) -> list[int]:
        """`Example.shared` of each."""
        return [common for batch in self._opened() for common in batch.column("shared").to_pylist()]

    def _opened(self) -> list[Any]:
        if self._batches is None:
            arrow = library("pyarrow", setting=_SETTING)
            try:
                reader = library("pyarrow.ipc", setting=_SETTING).open_file(arrow.memory_map(str(self.path)))
                self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            except (arrow.ArrowException, OSError) as error:
                raise ValueError(
                    f"{self.path} is damaged or missing: {error}. Delete the folder and prepare the examples again"
                ) from error
        return self._batches


def _row(column: Any, row: int) -> NDArray[Any]:
    """One list of a column, without a copy of it."""
    begin, end = column.offsets[row].as_py(), column.offsets[row + 1].as_py()
    values: NDArray[Any] = column.values[begin:end].to_numpy(zero_copy_only=True)
    return values
