"""A folder of safetensors files: one `model.safetensors`, or shards and an index that says which tensor is where."""

import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a ValueError where there is none to read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); is the folder complete?") from error
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8, or brackets without end, among them
        raise ValueError(f"{path} is not valid JSON ({error}); fetch or export it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}; expected a JSON object")
    return value


class SafetensorsReader:
    """The tensors of a folder by name; only headers are read before a tensor is asked for, damaged ones refused."""

    def __init__(self, folder: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        promised = self._index(folder)
        for path in sorted(set(promised.values())) if promised else [folder / SINGLE]:
            if not path.is_file():
                raise ValueError(f"{path} is missing; {self._needed(folder)}")
            self._read_header(path)
        for name, path in promised.items():
            if self._files.get(name) != path:
                raise ValueError(f"{path} lacks {name}, which {INDEX} lists for it; download the folder again")

    @staticmethod
    def _needed(folder: Path) -> str:
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        if not pickles or any(folder.glob("*.safetensors")):
            return f"the folder needs {SINGLE}, or {INDEX} and all shards it names"
        return (
            f"the folder has its weights as pickles ({pickles[0]}), which could run code and are not read; where you "
            "trust them, load the folder with transformers and save it again"
        )

    @staticmethod
    def _index(folder: Path) -> dict[str, Path]:
        path = folder / INDEX
        if (folder / SINGLE).is_file() or not path.is_file():
            return {}
        weight_map = read_json(path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{path} has no weight_map; expected a map from tensor names to shard files")
        for name, file in weight_map.items():
            # a shard lies in the folder: an index may not point elsewhere on the disk
            if not isinstance(file, str) or not file or Path(file).name != file or "\0" in file:
                raise ValueError(
                    f"{path}: {name} has the file {file!r} in the index; expected the name of a file beside the index"
                )
        return {name: folder / file for name, file in weight_map.items()}

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    view = file.get_slice(name)
                    if (dtype := view.get_dtype()) not in _FLOATS:
                        expected = f"expected one of {', '.join(_FLOATS)} (quantised weights are not supported)"
                        raise ValueError(f"{path}: {name} has dtype {dtype}; {expected}")
                    self.shapes[name] = tuple(view.get_shape())
                    self._files[name] = path
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is truncated or no safetensors file ({error}); fetch it again") from error

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield each named tensor, on the CPU in its stored dtype, opening each file once."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._files[name], []).append(name)
        for path, inside in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in inside:
                    yield name, file.get_tensor(name)

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Some rows of a tensor, on the CPU in its stored dtype; the others are not read."""
        with safe_open(self._files[name], framework="pt") as file:
            rows: Tensor = file.get_slice(name)[begin:end]
            return rows


class SafetensorsWriter:
    """Writes tensors, in the order of `sizes` (name -> bytes), into files of about `max_shard_bytes`."""

    def __init__(self, folder: Path, sizes: dict[str, int], max_shard_bytes: int) -> None:
        self.folder = folder
        self.total = sum(sizes.values())
        self._shards: list[list[str]] = [[]]
        filled = 0
        for name, size in sizes.items():
            if self._shards[-1] and filled + size > max_shard_bytes:
                self._shards.append([])
                filled = 0
            self._shards[-1].append(name)
            filled += size
        count = len(self._shards)
        several = [f"model-{shard + 1:05d}-of-{count:05d}.safetensors" for shard in range(count)]
        self._files = [SINGLE] if count == 1 else several
        self._current = 0
        self._waiting: dict[str, Tensor] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take the next tensor; a file is written when its last one has come."""
        # a copy: slices of one fused matrix share memory, which safetensors refuses
        self._waiting[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if name == self._shards[self._current][-1]:
            path = self.folder / self._files[self._current]
            path.touch(exist_ok=False)
            mode = path.stat().st_mode  # as the umask has it; safetensors makes its file for its owner alone
            save_file(self._waiting, path, metadata={"format": "pt"})
            path.chmod(stat.S_IMODE(mode))
            self._waiting = {}
            self._current += 1

    def finish(self) -> None:
        """Write the index, when there are several files."""
        assert self._current == len(self._shards), "fewer tensors came than were announced"
        if len(self._shards) > 1:
            weight_map = {name: file for file, names in zip(self._files, self._shards, strict=True) for name in names}
            index = {"metadata": {"total_size": self.total}, "weight_map": weight_map}
            (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def end_ids(folder: Path) -> list[int]:
    """The ids that end a generated text: those of `generation_config.json`, else of `config.json`."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        named = read_json(path).get("eos_token_id") if path.is_file() else None
        if named is None:
            continue
        ids = named if isinstance(named, list) else [named]
        if not all(type(number) is int and number >= 0 for number in ids):
            raise ValueError(f"{path}: eos_token_id is {named!r}; expected an id, or a list of ids")
        return ids
    return []
