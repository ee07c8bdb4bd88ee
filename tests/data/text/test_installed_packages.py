"""The sources of installed packages: which files, and which packages on which side."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from litespark.data.manifest import Manifest
from litespark.data.prepare.prepare import prepare
from litespark.data.text import installed_packages as module
from litespark.data.text.files import size_of
from litespark.data.text.installed_packages import installed_packages, site_packages
from litespark.data.text.splits import share_of
from tests.data.corpus import config, documents

PACKAGES = [f"package{number}" for number in range(30)]


def tree(folder, packages=PACKAGES):
    """A site-packages with a folder a package, each with a module and one in a folder below."""
    for number, name in enumerate(packages):
        (folder / name / "inner").mkdir(parents=True)
        for path, text in zip(("__init__.py", "inner/more.py"), documents(2, seed=number), strict=True):
            (folder / name / path).write_text(text)
        (folder / f"{name}-1.0.dist-info").mkdir()
    return folder


def names(files):
    return [file.name for file in files]


def packages(files):
    return {name.split("/")[0].removesuffix(".py") for name in names(files)}


def test_a_package_is_on_one_side_only_and_its_name_decides(tmp_path):
    training, validation = installed_packages(0.4, [tree(tmp_path)])
    assert packages(training) | packages(validation) == set(PACKAGES)
    assert packages(validation) == {name for name in PACKAGES if share_of(name) < 0.4}
    assert not packages(training) & packages(validation)
    assert names(training) == sorted(names(training))
    assert len(names(validation)) == 2 * len(packages(validation))
    for fraction, held_out in ((1e-9, 1), (1 - 1e-9, len(PACKAGES) - 1)):  # no side is left empty
        assert len(packages(installed_packages(fraction, [tmp_path])[1])) == held_out
    for name in PACKAGES[::2]:  # what is installed beside it does not count
        shutil.rmtree(tmp_path / name)
    (tmp_path / PACKAGES[1] / "new.py").write_text("x = 1")
    after = installed_packages(0.4, [tmp_path])
    assert [packages(side) for side in after] == [packages(side) - {*PACKAGES[::2]} for side in (training, validation)]


def test_hashes_of_names_stay_what_they_are():
    # another hash would move packages between training and validation of a model that was trained before
    assert [round(share_of(name), 6) for name in ("mpmath", "sympy")] == [0.085958, 0.29516]


def test_metadata_links_copies_and_what_installers_write_are_left_out(tmp_path):
    folder = tree(tmp_path / "site")
    expected = installed_packages(0.4, [folder])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "module.py").write_text("x = 1")
    for path in (
        "package1-1.0.dist-info/hook.py", "old.egg-info/hook.py", "__editable___mine_finder.py", ".hidden/module.py",
        "__pycache__/module.py", "package2/__pycache__/module.py", "package2/_vendor/package1/module.py",
        "package2/inner/tests/test_more.py", "package2/data.txt", "package2/native.so", "package2/types.pyi",
    ):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x = 1")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "linked.py").symlink_to(tmp_path / "elsewhere" / "module.py")
    (folder / "package2" / "linked.py").symlink_to(folder / "package1" / "__init__.py")
    (folder / "package2" / "linked").symlink_to(folder / "package1", target_is_directory=True)
    assert installed_packages(0.4, [folder]) == expected


def test_too_few_packages_and_a_folder_that_cannot_be_listed_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"data\.source=installed_packages: found 1 packages.*at least two"):
        installed_packages(0.1, [tree(tmp_path / "site", ["alone"]), tmp_path / "nothing"])
    scan = os.scandir

    def forbidden(folder):  # root may list everything
        if Path(folder).name == "inner":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(ValueError, match=r"inner cannot be listed .*Permission denied.*correct its permissions"):
        installed_packages(0.1, [tmp_path / "site"])


def test_this_python_has_installed_packages():
    training, validation = installed_packages(0.1)
    assert "torch/__init__.py" in names(training)
    assert "mpmath/__init__.py" in names(validation)
    assert len(site_packages()) == len(set(site_packages()))


def test_packages_are_prepared_bad_files_counted_and_both_sides_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "site_packages", lambda: [tmp_path / "site"])

    def prepared(**changes):
        settings = config("installed_packages", tmp_path / "prepared", validation_fraction=0.4, **changes)
        return Manifest.read(prepare(settings, progress=False))

    whole = installed_packages(0.4, [tree(tmp_path / "site")])
    limited = prepared(max_bytes=sum(map(size_of, whole)) // 2)
    (tmp_path / "site" / "package3" / "latin.py").write_bytes(b"# caf\xe9")
    (tmp_path / "site" / "package3" / "nothing.py").write_text("")
    manifest = prepared(max_bad_share=0.1)
    assert manifest.dropped.by_rule() == {"reading/empty": 1, "reading/invalid_utf8": 1}
    assert manifest.name.startswith("installed_packages-")
    for split, side in zip(("train", "validation"), whole, strict=True):
        assert manifest.splits[split].documents == len(side)
        assert 0.5 <= limited.splits[split].text_bytes / size_of(side) < 0.75
