"""torchmetrics is imported without what it brings for images, sound and texts, and whole where that is asked for."""

import sys
from importlib import import_module

import pytest

from litespark.light_torchmetrics import BASES, LightFinder

METRIC = "from toymetrics import _logger\nfrom toymetrics.utilities import wide\nclass Metric: ...\n"
WHOLE = "from toymetrics.metric import Metric\nfrom toymetrics.heavy import Heavy\n"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Writes a package `toymetrics` with these files more, and imports it lightly."""

    def imported(**files):
        files = {"__init__": WHOLE, "heavy": "class Heavy: ...\n", "utilities": "wide = 1\n", "metric": METRIC} | files
        for name, text in files.items():
            (tmp_path / "toymetrics").mkdir(exist_ok=True)
            (tmp_path / "toymetrics" / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("litespark.light_torchmetrics.version", lambda package: "1.0")
        monkeypatch.setattr(sys, "meta_path", [LightFinder("toymetrics", {"Metric": "metric"}), *sys.meta_path])
        return import_module("toymetrics")

    yield imported
    for name in [name for name in sys.modules if name.startswith("toymetrics")]:
        del sys.modules[name]


def test_the_rest_is_imported_when_it_is_asked_for_and_a_class_stays_itself(toy):
    package = toy()
    metric = package.Metric
    assert "toymetrics.heavy" not in sys.modules
    assert not hasattr(package, "__wrapped__")
    assert "toymetrics.heavy" not in sys.modules
    assert package.Heavy.__module__ == "toymetrics.heavy"
    assert package.Metric is metric
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


@pytest.mark.parametrize("files", [{"metric": "from toymetrics import later\nclass Metric: ...\n"}, {"metric": ""}])
def test_a_package_whose_bases_do_not_stand_alone_is_imported_whole(toy, files):
    whole = "later = 1\nfrom toymetrics import metric\nfrom toymetrics.heavy import Heavy\n"
    assert toy(__init__=whole, **files).Heavy is sys.modules["toymetrics.heavy"].Heavy


def test_torchmetrics_as_it_is_installed_is_imported_lightly(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [LightFinder("torchmetrics", BASES), *sys.meta_path])
    package = import_module("torchmetrics")
    assert package.Metric.__module__ == "torchmetrics.metric"
    assert "torchmetrics.functional" not in sys.modules
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        del sys.modules[name]
