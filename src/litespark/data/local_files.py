"""Files on this machine, as fsspec's own class for them has them but for three faults of that class (2026.9):

- `find` does not look behind links to folders, and lists them, and pipes, like files;
- times of modification are floats, in which 10^9 seconds leave no room for less than a tenth of a microsecond;
- `pipe_file` writes in place: a full disk or a loss of power leaves part of a file under the final name.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from litespark.atomic import write_whole


class StorageError(ValueError):
    """An address that cannot be read or written."""


def path_from(typed: str | Path) -> Path:
    """A path with `~` for the home of a user; of one who is not known here it is kept as it is."""
    try:
        return Path(typed).expanduser()
    except RuntimeError:
        return Path(typed)


class LocalFiles(LocalFileSystem):
    """The faults above mended; paths are taken as they are given."""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and time of a file; a broken link has 0 bytes, so that reading it is an error."""
        try:
            return _info(path, os.stat(path))  # noqa: PTH116 (a million of them, of strings)
        except FileNotFoundError:
            if Path(path).is_symlink():
                return {"name": path, "size": 0, "type": "link", "mtime": ""}
            raise

    def find(self, path: str, **_: Any) -> dict[str, dict[str, Any]]:
        """Every file below a folder. Links are followed, but not in a circle."""
        folder = Path(path)
        return {info["name"]: info for info in self._below(path, frozenset())} if folder.is_dir() else {}

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        write_whole(Path(path), value)

    def _below(self, folder: str, above: frozenset[str]) -> Iterator[dict[str, Any]]:
        above |= {os.path.realpath(folder)}
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.is_symlink() or os.path.realpath(entry.path) not in above:
                        yield from self._below(entry.path, above)
                elif entry.is_file():
                    yield _info(entry.path, entry.stat())
                elif not Path(entry.path).exists():
                    yield self.info(entry.path)


def _info(path: str, info: os.stat_result) -> dict[str, Any]:
    kind = "file" if stat.S_ISREG(info.st_mode) else "directory" if stat.S_ISDIR(info.st_mode) else "other"
    return {"name": path, "size": info.st_size, "type": kind, "mtime": info.st_mtime_ns}
