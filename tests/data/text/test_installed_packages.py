"""The sources of installed packages: which files, and which packages on which side."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from litespark.data.manifest import Manifest
from litespark.data.prepare.prepare import prepare
from litespark.data.text import installed_packages as module
from litespark.data.text.installed_packages import installed_packages, package_share, site_packages
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


def names(source):
    return [file.name for file in source.files]


def packages(source):
    return {name.split("/")[0].removesuffix(".py") for name in names(source)}


def test_a_package_is_on_one_side_only_and_its_name_decides(tmp_path):
    split = installed_packages(0.4, [tree(tmp_path)])
    assert packages(split.training) | packages(split.validation) == set(PACKAGES)
    assert packages(split.validation) == {name for name in PACKAGES if package_share(name) < 0.4}
    assert not packages(split.training) & packages(split.validation)
    assert names(split.training) == sorted(names(split.training))
    assert len(names(split.validation)) == 2 * len(packages(split.validation))


def test_the_side_of_a_package_does_not_depend_on_what_is_installed_beside_it_or_on_its_version(tmp_path):
    before = installed_packages(0.4, [tree(tmp_path / "a", PACKAGES[::-1])])
    for name in PACKAGES[::2]:
        shutil.rmtree(tmp_path / "a" / name)
    (tmp_path / "a" / PACKAGES[1] / "new.py").write_text("x = 1")
    after = installed_packages(0.4, [tmp_path / "a"])
    assert packages(after.validation) == packages(before.validation) - set(PACKAGES[::2])
    assert packages(after.training) == packages(before.training) - set(PACKAGES[::2])


def test_hashes_of_names_stay_what_they_are():
    # another hash would move packages between training and validation of a model that was trained before
    assert [round(package_share(name), 6) for name in ("mpmath", "sympy")] == [0.085958, 0.29516]


def test_single_modules_namespaces_and_both_folders_of_packages_count(tmp_path):
    pure, binary = tree(tmp_path / "pure"), tmp_path / "binary"
    (pure / "single.py").write_text("x = 1")
    for part in ("one", "two"):  # no __init__.py: a namespace that two distributions share
        (pure / "namespace" / part).mkdir(parents=True)
        (pure / "namespace" / part / "module.py").write_text("x = 1")
    (binary / PACKAGES[0]).mkdir(parents=True)
    (binary / PACKAGES[0] / "compiled.py").write_text("x = 1")
    split = installed_packages(0.4, [pure, binary, tmp_path / "absent"])
    assert {"single.py", "namespace/one/module.py", "namespace/two/module.py", "package0/compiled.py"} <= {
        *names(split.training), *names(split.validation)
    }  # fmt: skip
    for side in split:
        assert len({"namespace/one/module.py", "namespace/two/module.py"} & set(names(side))) in (0, 2)
        assert len({"package0/compiled.py", "package0/__init__.py"} & set(names(side))) in (0, 2)


def test_a_module_and_a_folder_of_one_name_are_on_one_side(tmp_path):
    folder = tree(tmp_path)
    for name in PACKAGES:
        (folder / f"{name}.py").write_text("x = 1")
    split = installed_packages(0.4, [folder])
    assert not packages(split.training) & packages(split.validation)
    assert packages(split.training) | packages(split.validation) == set(PACKAGES)


def test_metadata_links_copies_and_what_installers_write_are_left_out(tmp_path):
    folder = tree(tmp_path / "site")
    expected = installed_packages(0.4, [folder])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "module.py").write_text("x = 1")
    for path in (
        "package1-1.0.dist-info/hook.py", "old.egg-info/hook.py", "__editable___mine_finder.py", ".hidden/module.py",
        "__pycache__/module.py", "package2/__pycache__/module.py", "package2/_vendor/package1/module.py",
        "package2/inner/tests/test_more.py",
        "package2/data.txt", "package2/native.so", "package2/types.pyi",
    ):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x = 1")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "linked.py").symlink_to(tmp_path / "elsewhere" / "module.py")
    (folder / "package2" / "linked.py").symlink_to(folder / "package1" / "__init__.py")
    (folder / "package2" / "linked").symlink_to(folder / "package1", target_is_directory=True)
    found = installed_packages(0.4, [folder])
    assert [side.files for side in found] == [side.files for side in expected]


@pytest.mark.parametrize(("fraction", "held_out"), [(1e-9, 1), (1 - 1e-9, len(PACKAGES) - 1)])
def test_no_side_is_left_empty(tmp_path, fraction, held_out):
    split = installed_packages(fraction, [tree(tmp_path)])
    assert len(packages(split.validation)) == held_out


def test_too_few_packages_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source=installed_packages: found 1 packages.*at least two"):
        installed_packages(0.1, [tree(tmp_path, ["alone"])])
    with pytest.raises(ValueError, match="found 0 packages"):
        installed_packages(0.1, [tmp_path / "nothing"])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"data\.source=installed_packages: .*file cannot be listed .*expected a folder"
    ):
        installed_packages(0.1, [tmp_path / "file"])
    site, scan = tree(tmp_path / "site"), os.scandir

    def forbidden(folder):  # root may list everything
        if Path(folder).name == "inner":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(ValueError, match=r"inner cannot be listed .*Permission denied.*correct its permissions"):
        installed_packages(0.1, [site])


def test_this_python_has_installed_packages():
    split = installed_packages(0.1)
    assert "torch/__init__.py" in names(split.training)
    assert "mpmath/__init__.py" in names(split.validation)
    assert len(site_packages()) == len(set(site_packages()))


def prepared(tmp_path, monkeypatch, root="prepared", **changes):
    monkeypatch.setattr(module, "site_packages", lambda: [tmp_path / "site"])
    return prepare(config("installed_packages", tmp_path / root, validation_fraction=0.4, **changes), progress=False)


def test_packages_are_prepared_and_bad_files_counted(tmp_path, monkeypatch):
    split = installed_packages(0.4, [tree(tmp_path / "site")])
    (tmp_path / "site" / "package3" / "latin.py").write_bytes(b"# caf\xe9")
    (tmp_path / "site" / "package3" / "nothing.py").write_text("")
    manifest = Manifest.read(prepared(tmp_path, monkeypatch, max_bad_share=0.1))
    assert manifest.dropped.by_rule() == {"reading/empty": 1, "reading/invalid_utf8": 1}
    assert manifest.name.startswith("installed_packages-")
    assert manifest.splits["train"].documents == len(split.training.files)
    assert manifest.splits["validation"].documents == len(split.validation.files)
    assert manifest.settings["source"] == "installed_packages"


def test_the_manifest_follows_the_text_and_not_versions_or_when_they_were_installed(tmp_path, monkeypatch):
    def hashes(root):
        return Manifest.read(prepared(tmp_path, monkeypatch, root)).hash

    tree(tmp_path / "site")
    first = hashes("first")
    for file in (tmp_path / "site").rglob("*.py"):
        file.touch()
    assert hashes("second") == first
    (tmp_path / "site" / "package4-1.0.dist-info").rename(tmp_path / "site" / "package4-1.1.dist-info")
    assert hashes("third") == first
    (tmp_path / "site" / "package4" / "__init__.py").write_text("changed = True\n")
    assert hashes("fourth") != first


def test_a_limit_takes_whole_files_from_both_sides(tmp_path, monkeypatch):
    whole = installed_packages(0.4, [tree(tmp_path / "site")])
    size = whole.training.size + whole.validation.size
    manifest = Manifest.read(prepared(tmp_path, monkeypatch, max_bytes=size // 2))
    for split, source in (("train", whole.training), ("validation", whole.validation)):
        assert 0.5 <= manifest.splits[split].bytes / source.size < 0.75
    assert manifest.settings["max_bytes"] == size // 2
    assert Manifest.read(prepared(tmp_path, monkeypatch)).settings["max_bytes"] is None
