"""Log-probabilities of a reference model, which is the policy as it stands before the first step.

They are computed once, by the policy itself, over the examples that the run trains and validates on: no second model
is in memory, and the reference is sharded as the policy is. They lie in the run's folder, where a resume reads them,
and in a cache, by the hash of all that they depend on. An adapter adds nothing before its first step, so the model
below it is the reference of a run that trains one.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from litespark.atomic import write_whole
from litespark.data.batch import TokenBatch
from litespark.data.examples.batch import ExampleBatch
from litespark.mesh import Mesh
from litespark.models.evaluating import evaluating
from litespark.tasks.sequences import log_probabilities

VERSION = 1
"""Raised when the code makes other log-probabilities of the same model and data, so that cached ones are not taken."""
AnyBatch = TypeVar("AnyBatch", bound=TokenBatch)


@dataclass(frozen=True)
class Reference:
    """`splits`: of each split (E, n) fp32, the log-probabilities of the n sequences of each of its E examples, NaN of
    those that were not asked for. `data`: what tells the data apart that they are of."""

    splits: dict[str, Tensor]
    data: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Reference | None":
        """What `write` wrote; None where there is no file. A ValueError where it is damaged."""
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                data = json.loads(str(file["data"]))
                return cls({name: torch.from_numpy(file[name]) for name in file.files if name != "data"}, data)
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: got a damaged file ({error}), expected log-probabilities of the reference model; put it back "
                "from a copy, or, where it is that of the cache, delete it"
            ) from error

    def write(self, path: Path) -> None:
        """An OSError where it cannot be written."""
        content = io.BytesIO()
        splits = {name: values.numpy() for name, values in self.splits.items()}
        np.savez(content, data=np.array(json.dumps(self.data, sort_keys=True)), **splits)  # type: ignore[arg-type]
        write_whole(path, content.getvalue())

    def to(self, device: torch.device) -> "Reference":
        return replace(self, splits={name: values.to(device) for name, values in self.splits.items()})

    def added(self, batch: AnyBatch, split: str) -> AnyBatch:
        """The batch, on this device, with what the reference gives its sequences."""
        if not isinstance(batch, ExampleBatch):
            return batch
        return replace(batch, reference=self.splits[split][batch.examples].flatten())


def reference_key(depends: Mapping[str, Any]) -> str:
    """The name in the cache of what the reference makes of the data; `depends` is all that decides it but the code."""
    return hashlib.sha256(json.dumps({**depends, "version": VERSION}, sort_keys=True).encode()).hexdigest()[:16]


def compute_reference(
    model: nn.Module,
    batches: Mapping[str, Iterable[TokenBatch]],
    data: dict[str, Any],
    *,
    device: torch.device,
    mesh: Mesh,
    forward_context: Callable[[], AbstractContextManager[object]],
) -> Reference:
    """The reference of `batches` of each split, which are those of this rank; a collective."""
    splits = {}
    for split, of_split in batches.items():
        numbers: list[Tensor] = []
        values: list[Tensor] = []
        for batch in of_split:
            if not isinstance(batch, ExampleBatch):
                raise ValueError(
                    f"a reference model needs examples: got batches of text ({type(batch).__name__}), expected data "
                    "of pairs or of rated completions, such as data=pairs"
                )
            with evaluating(model), forward_context():
                sums = log_probabilities(model, batch.to(device))
            numbers.append(batch.examples)
            values.append(sums.view(len(batch.examples), -1) if len(batch.examples) else sums.new_zeros(0, 1))
        splits[split] = _joined(mesh.gather(([each.numpy() for each in numbers], [v.cpu().numpy() for v in values])))
    return Reference(splits, data)


def _joined(by_rank: list[tuple[list[Any], list[Any]]]) -> Tensor:
    """(E, n) of what the ranks computed; padding of validation has no example."""
    parts = [(of, values) for numbers, sums in by_rank for of, values in zip(numbers, sums, strict=True) if of.size]
    if not parts:
        return torch.zeros(0, 1)
    size = 1 + max(int(of.max()) for of, _ in parts)
    joined = np.full((size, parts[0][1].shape[1]), np.nan, dtype=np.float32)
    for of, values in parts:
        joined[of] = values
    return torch.from_numpy(joined)


def hash_of_weights(model: nn.Module, mesh: Mesh) -> str:
    """SHA-256 over names and values of all parameters, the same however they are sharded; a collective."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if mesh.is_first:
            digest.update(f"{name} {tuple(whole.shape)} {whole.dtype}".encode())
            digest.update(whole.detach().contiguous().view(torch.uint8).cpu().numpy().data)
    return mesh.from_first(digest.hexdigest, "the weights to be hashed")
