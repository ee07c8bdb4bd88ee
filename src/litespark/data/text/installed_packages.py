"""The Python sources of the installed packages: text that every machine has, split by package.

A package is the first part of a file's path below site-packages: a folder, a namespace folder that several
distributions share, or a single module. Whether it trains or validates is a hash of its name and nothing else, so that
it is on the same side on every machine, whatever is installed beside it.

Left out are links, so that no file is read under two names; copies of other packages (`_vendor` and the like), which
would stand on both sides; tests, as of the standard library; and what installers write: metadata and the modules of
editable installs, which name folders of the machine.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from litespark.data.text.files import Source, SourceFile

INSTALLED_PACKAGES = "installed_packages"
_LEFT_OUT = frozenset(
    {"_vendor", "_vendored", "vendor", "vendored", "_vendored_packages", "third_party", "externals"}
    # tables of numbers more than code, and some installers leave them out
    | {"test", "tests", "__pycache__"}
)
_METADATA = (".dist-info", ".egg-info", ".data")


class PackageSplit(NamedTuple):
    """The two sides, no package on both."""

    training: Source
    validation: Source


def site_packages() -> list[Path]:
    """The folders in which the running Python keeps what was installed, each once: pure Python, and with binaries."""
    found = (Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
    return list(dict.fromkeys(found))


def installed_packages(validation_fraction: float, folders: Sequence[Path] | None = None) -> PackageSplit:
    """The `.py` files below site-packages: packages whose hash is below `validation_fraction` validate.

    Packages differ in size, so the share of text that is held out differs from the fraction. Where it would leave a
    side empty, the package whose hash is nearest to the fraction is on that side.

    Args:
        validation_fraction: share of the range of hashes.
        folders: where to look; None: `site_packages()`.

    Raises:
        ValueError: fewer than two packages with Python sources, or a folder that cannot be read.
    """
    folders = site_packages() if folders is None else folders
    by_package: dict[str, list[SourceFile]] = {}
    versions = []
    for folder in folders:
        versions += [entry.name for entry in _listed(folder) if entry.name.endswith(_METADATA)]
        for package, file in _files(folder):
            by_package.setdefault(package, []).append(file)
    if len(by_package) < 2:
        raise ValueError(
            f"data.source={INSTALLED_PACKAGES}: found {len(by_package)} packages with Python sources in "
            f"{' and '.join(map(str, folders))}, expected at least two, one of them for validation (links are not "
            "followed). Install into this Python, or set data.source to a file or folder of text"
        )
    ordered = sorted(by_package, key=package_share)
    held_out = sum(package_share(package) < validation_fraction for package in ordered)
    held_out = min(max(held_out, 1), len(ordered) - 1)
    return PackageSplit(
        *(
            Source(
                INSTALLED_PACKAGES,
                tuple(sorted((file for package in side for file in by_package[package]), key=lambda file: file.name)),
                versions=tuple(sorted(versions)),
            )
            for side in (ordered[held_out:], ordered[:held_out])
        )
    )


def package_share(package: str) -> float:
    """The package's place in [0, 1), from a hash of its name."""
    digest = hashlib.blake2b(package.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / (1 << 48)


def _files(folder: Path) -> Iterator[tuple[str, SourceFile]]:
    """(package, file) of every Python source below a site-packages folder."""
    for entry in _listed(folder):
        if entry.name.startswith((".", "__")) or entry.name.endswith(_METADATA):
            continue
        if entry.is_file(follow_symlinks=False) and entry.name.endswith(".py"):
            yield entry.name.removesuffix(".py"), _source_file(folder, entry)
        elif entry.is_dir(follow_symlinks=False):
            for file in _below(Path(entry.path)):
                yield entry.name, _source_file(folder, file)


def _below(folder: Path) -> Iterator[os.DirEntry[str]]:
    for entry in _listed(folder):
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".") and entry.name not in _LEFT_OUT:
                yield from _below(Path(entry.path))
        elif entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
            yield entry


def _source_file(folder: Path, entry: os.DirEntry[str]) -> SourceFile:
    status = entry.stat(follow_symlinks=False)
    # no time of modification: the same versions installed anew are the same text
    return SourceFile(str(folder), Path(entry.path).relative_to(folder).as_posix(), status.st_size)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds.

    Raises:
        ValueError: it is there and cannot be listed; to pass over it would leave text out in silence.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:  # sysconfig names folders that need not exist
        return []
    except OSError as error:
        raise ValueError(
            f"data.source={INSTALLED_PACKAGES}: {folder} cannot be listed ({error}), expected a folder that this user "
            "may read; correct its permissions, or set data.source to a file or folder of text"
        ) from error
