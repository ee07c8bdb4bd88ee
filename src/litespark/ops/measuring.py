"""What `auto` measures: forward and backward of each backend at the run's own sizes, and a file that remembers them.

What else a run measures of its device is remembered in the same file.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from litespark.atomic import write_whole
from litespark.device import device_of
from litespark.ops.backend import load
from litespark.ops.cases import Case, cases
from litespark.ops.fp8.measuring import block
from litespark.ops.precision import dtype_name
from litespark.ops.shapes import Place
from litespark.ops.timing import interleaved_milliseconds
from litespark.ops.verification import said

Name = TypeVar("Name", bound=str)
log = logging.getLogger(__name__)

# of measuring one op, all of its backends together
_SECONDS = 0.5


def measure(op: str, backends: list[str], place: Place) -> dict[str, float]:
    """Milliseconds of forward and backward of each backend; one that cannot run at these sizes is left out.

    Attention is measured within documents where the run packs them, the loss as its sum, and fp8 as the
    producers of a block.
    """
    make: Callable[[Any], Callable[[], object]]
    if op == "fp8":
        make = block(place)
    else:
        inputs = cases(op, place.shapes, place.device)
        make = Step(inputs[-1] if op == "attention" else inputs[0], place).both
    runs = those_that_run(backends, lambda name: make(load(op, name)), f"ops.{op}=")
    times = interleaved_milliseconds(runs, place.device, seconds=_SECONDS)
    return {name: statistics.median(repeats) for name, repeats in times.items()}


def those_that_run(
    names: Iterable[Name], make: Callable[[Name], Callable[[], object]], what: str = ""
) -> dict[Name, Callable[[], object]]:
    """What is made of each name, called once; what raises (out of memory, a limit) is left out with a warning."""
    runs = {}
    for name in names:
        try:
            run = make(name)
            run()
        except Exception as error:  # noqa: BLE001 (libraries and kernels may raise anything)
            log.warning("%s%s is not measured: at these sizes it raised %s", what, name, said(error))
        else:
            runs[name] = run
    return runs


class Step:
    """One case with its inputs as a training step has them; all functions that are run get the same ones."""

    def __init__(self, case: Case, place: Place) -> None:
        self.case = case
        self.place = place
        self.leaves: list[Tensor] = []
        for name, x in case.inputs.items():
            if not name.startswith("fixed"):
                x = x.detach().to(case.dtype_of(name, place), copy=True).requires_grad_()
            self.leaves.append(x)
        self.wanted = [leaf for leaf in self.leaves if leaf.requires_grad]

    def forward(self, function: Callable[..., Any]) -> tuple[Tensor, ...]:
        """Outputs, with what the backward pass needs kept, as in training."""
        with device_of(self.place.device).autocast(self.place.dtype if self.place.autocast else None):
            result = self.case.call(function, *self.leaves)
        return result if isinstance(result, tuple) else (result,)

    def both(self, function: Callable[..., Any]) -> Callable[[], object]:
        """A run of forward and backward, with a random gradient of each output."""
        upstream = [torch.randn_like(output) for output in self.forward(function)]
        return lambda: torch.autograd.grad(self.forward(function), self.wanted, upstream)


def facts_of(op: str, place: Place) -> dict[str, Any]:
    """What the times of the backends of an op depend on, beside device and programs."""
    return {
        "op": op,
        "dtype": dtype_name(place.dtype),
        "autocast": place.autocast,
        "stream": dtype_name(place.stream_dtype),
        # PyTorch takes other kernels for attention
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "shapes": asdict(place.shapes),
        **({"branches": True} if place.branches and op == "attention" else {}),
    } | ({"gradients": place.fp8.gradients} if op == "fp8" and place.fp8 is not None else {})


class Remembered:
    """Milliseconds by name, measured before on the same device with the same programs and the same `facts`.

    `source` are folders of ours whose programs were measured.
    """

    def __init__(self, file: Path, device: torch.device, facts: Mapping[str, Any], *source: Path) -> None:
        programs = {
            "device": device_of(device).name,
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "triton": [distribution.version for distribution in importlib.metadata.distributions(name="triton")],
            "source": source_hash(Path(__file__).parent, *source),
        }
        self.file = file
        self.key = json.dumps({**programs, **facts}, sort_keys=True)

    def read(self) -> dict[str, float]:
        """Nothing where there are none, or the file is damaged."""
        times = self._entries().get(self.key)
        return times if isinstance(times, dict) else {}

    def write(self, times: dict[str, float]) -> None:
        """Put them into the file, atomically; none take the entry out."""
        entries = self._entries() | {self.key: times}
        if not times:
            del entries[self.key]
        try:
            write_whole(self.file, json.dumps(entries, indent=1, sort_keys=True))
        except OSError as error:
            log.warning("what auto measured is not kept in %s: %s", self.file, error)

    def _entries(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}


def default_cache() -> Path:
    """`litespark/ops.json` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litespark" / "ops.json"


def source_hash(*folders: Path) -> str:
    """A short hash of the files of code in folders, names and contents."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(file for ending in ("py", "cpp") for file in folder.rglob(f"*.{ending}")):
            digest.update(os.fsencode(file.relative_to(folder)) + file.read_bytes())
    return digest.hexdigest()[:16]
