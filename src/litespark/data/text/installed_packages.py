"""The Python sources of the installed packages: text that every machine has, split by package.

Whether a package trains or validates is a hash of its name and nothing else, so that it is on the same side on every
machine. Left out are links and copies of other packages (`_vendor` and the like), which would stand on both sides;
tests; and what installers write.
"""

import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from litespark.data.text.files import Files, SourceFile
from litespark.data.text.splits import share_of

INSTALLED_PACKAGES = "installed_packages"
_LEFT_OUT = frozenset(
    {"_vendor", "_vendored", "vendor", "vendored", "_vendored_packages", "third_party", "externals"}
    # tables of numbers more than code, and some installers leave them out
    | {"test", "tests", "__pycache__"}
)
_METADATA = (".dist-info", ".egg-info", ".data")


def site_packages() -> list[Path]:
    """The folders in which the running Python keeps what was installed, each once: pure Python, and with binaries."""
    folder = (Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
    return list(dict.fromkeys(folder))


def installed_packages(validation_fraction: float, folders: Sequence[Path] | None = None) -> tuple[Files, Files]:
    """The `.py` files to train on and to validate on: packages whose hash is below `validation_fraction` validate.

    Where that would leave a side empty, the package whose hash is nearest to the fraction is on it. ValueError: fewer
    than two packages in the folders (None: `site_packages()`), or a folder that cannot be read.
    """
    folders = site_packages() if folders is None else folders
    packages: dict[str, list[SourceFile]] = {}
    for folder in folders:
        for file in _sources(folder):
            packages.setdefault(file.name.split("/")[0].removesuffix(".py"), []).append(file)
    if len(packages) < 2:
        raise ValueError(
            f"data.source={INSTALLED_PACKAGES}: found {len(packages)} packages with Python sources in "
            f"{' and '.join(map(str, folders))}, expected at least two. Install some, or set data.source to a file or "
            "folder of text"
        )
    ordered = sorted(packages, key=share_of)
    held_out = sum(share_of(package) < validation_fraction for package in ordered)
    held_out = min(max(held_out, 1), len(ordered) - 1)
    training, validation = (
        tuple(sorted((file for package in side for file in packages[package]), key=lambda file: file.name))
        for side in (ordered[held_out:], ordered[:held_out])
    )
    return training, validation


def _sources(folder: Path) -> Iterator[SourceFile]:
    for path, folders, names in os.walk(folder, onerror=_refuse):
        top = Path(path) == folder
        left_out = _of_installers if top else _left_out
        folders[:] = [name for name in folders if not left_out(name)]
        for name in names:
            file = Path(path) / name
            if name.endswith(".py") and not (top and _of_installers(name)) and not file.is_symlink():
                status = file.stat()
                name = file.relative_to(folder).as_posix()
                yield SourceFile(str(folder), name, status.st_size, str(status.st_mtime_ns))


def _of_installers(name: str) -> bool:
    return name.startswith((".", "__")) or name.endswith(_METADATA)


def _left_out(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_OUT


def _refuse(error: OSError) -> None:
    """To pass over a folder would leave text out in silence; those that sysconfig names need not exist."""
    if isinstance(error, FileNotFoundError):
        return
    raise ValueError(
        f"data.source={INSTALLED_PACKAGES}: {error.filename} cannot be listed ({error}); correct its permissions, or "
        "set data.source to a file or folder of text"
    ) from error
