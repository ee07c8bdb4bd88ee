"""Several processes and several nodes write what one does, byte for byte."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest
from litespark.data.prepare import stages
from litespark.data.prepare.plan import plan_preparation
from litespark.data.prepare.prepare import prepare
from litespark.data.prepare.stages import Stages
from litespark.data.prepare.work import UNITS, Work
from litespark.data.select.config import SelectionConfig
from litespark.data.storage import Storage
from tests.data.corpus import config, documents
from tests.data.prepare.reading import content
from tests.data.prepare.records import write_records

NODES = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files of records of three domains."""
    texts = documents(100)
    return write_records(tmp_path_factory.mktemp("nodes") / "text", [*texts, *texts[10:30]], files=10)


def settings(source: Path, root: Path, **changes: object) -> PrepareConfig:
    return config(source, root, unit_bytes=4000, domain_field="meta.kind", **changes)


@pytest.fixture(scope="module")
def alone(source: Path) -> Path:
    """What one process on one node writes."""
    return prepare(settings(source, source.parent / "alone"), progress=False)


def test_several_processes_write_the_same(source, alone, tmp_path):
    domains = Manifest.read(alone).splits["train"].domains
    assert list(domains) == ["code", "news & views", "prose"]
    assert len({chunk.file.split("-")[1] for chunk in domains["prose"].chunks}) > NODES, "there are few units"
    folder = prepare(replace(settings(source, tmp_path), processes=2), progress=False)
    assert content(folder) == content(alone)


def test_nodes_one_after_the_other_write_the_same_and_the_last_finishes(source, alone, tmp_path, capsys):
    each = [replace(settings(source, tmp_path), nodes=NODES, node_rank=rank) for rank in (2, 0, 1)]
    assert prepare(each[0]) is None
    assert "of node_rank 0, 1, still to come" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        Manifest.read(tmp_path / alone.name)
    assert prepare(each[1]) is None
    assert "of node_rank 1, still to come" in capsys.readouterr().err
    assert prepare(each[2]) == tmp_path / alone.name
    assert content(tmp_path / alone.name) == content(alone)
    assert [prepare(node, progress=False) for node in each] == [tmp_path / alone.name] * NODES


def test_nodes_that_compare_documents_wait_for_each_other(source, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "POLL_SECONDS", 0.05)
    selection = SelectionConfig(exact_duplicates=True)
    expected = prepare(settings(source, tmp_path / "alone", selection=selection), progress=False)
    assert Manifest.read(expected).dropped.by_rule() == {"selection/exact_duplicate": 18}
    each = [
        replace(settings(source, tmp_path / "nodes", selection=selection), nodes=NODES, node_rank=rank)
        for rank in range(NODES)
    ]
    with ThreadPoolExecutor(NODES) as pool:
        found = [pool.submit(prepare, node, progress=False) for node in each]
        results = [future.result(timeout=60) for future in found]
    folder = tmp_path / "nodes" / expected.name
    assert folder in results
    assert {*results} <= {folder, None}
    assert content(folder) == content(expected)
    assert list((tmp_path / "nodes").iterdir()) == [folder]


def test_a_node_whose_units_are_done_does_not_wait_for_others(source, tmp_path):
    selection = SelectionConfig(exact_duplicates=True)
    many = len(plan_preparation(settings(source, tmp_path)).units)
    spare = replace(settings(source, tmp_path, selection=selection), nodes=many + 1, node_rank=many)
    # others may end, and remove what it would wait for: this would never return
    assert prepare(spare, progress=False) is None


def test_a_node_that_another_overtakes_while_it_ends_finds_the_data_set(source, alone, tmp_path, monkeypatch, capsys):
    first, last = (replace(settings(source, tmp_path), nodes=2, node_rank=rank) for rank in range(2))
    original = Stages._run_units

    def overtaken(stages: Stages, *arguments: object) -> None:
        original(stages, *arguments)
        if stages.plan.config.node_rank == 0:
            assert prepare(last, progress=False) is not None

    monkeypatch.setattr(Stages, "_run_units", overtaken)
    assert prepare(first) == tmp_path / alone.name
    assert "still to come" not in capsys.readouterr().err
    assert content(tmp_path / alone.name) == content(alone)


def test_nodes_with_different_tokenizers_are_refused(source, tmp_path):
    first, last = (replace(settings(source, tmp_path), nodes=2, node_rank=rank) for rank in range(2))
    assert prepare(first, progress=False) is None
    (folder,) = tmp_path.iterdir()
    work = Work(Storage(folder))
    number = min(work.done(UNITS))
    work.write_result(number, replace(work.result(number), tokenizer="another"))
    with pytest.raises(ValueError, match=r"node 0 encoded unit 0 with another tokenizer \(hash another, expected"):
        prepare(last, progress=False)
    assert not (folder / "manifest.json").exists()
