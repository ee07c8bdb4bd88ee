"""Bytes of text beside the bytes that tokens decode to: what bits-per-byte is corrected by."""

from __future__ import annotations

import dataclasses

import pytest

from litespark.data.manifest import Manifest, SplitCounts
from litespark.launch import Ranks
from litespark.metrics.meters import NullMeter
from litespark.run.build import construct_module, token_budget
from litespark.run.new_record import new_record
from litespark.run.preflight import preflight
from litespark.tasks.pretrain import text_bytes_per_byte
from tests.data.several_domains import ids_of, write_domains
from tests.run.composed import parts


@pytest.fixture
def manifest(tmp_path):
    domains = {"web": ids_of(110, 1), "code": ids_of(55, 1001)}  # 100 and 50 bytes
    return Manifest.read(write_domains(tmp_path / "data", {"train": domains, "validation": domains}))


def changed(manifest, **text_bytes):
    domains = manifest.splits["validation"].domains
    counts = {name: dataclasses.replace(each, text_bytes=text_bytes[name]) for name, each in domains.items()}
    return dataclasses.replace(manifest, splits={**manifest.splits, "validation": SplitCounts(counts)})


def test_a_tokenizer_that_changes_text_is_corrected_for_domain_by_domain_and_that_is_said(manifest, caplog):
    assert text_bytes_per_byte(manifest) == {"code": 1.0, "web": 1.0}
    assert not caplog.text
    assert text_bytes_per_byte(changed(manifest, web=99, code=51)) == {"code": 1.02, "web": 0.99}
    assert "the tokenizer changes text" in caplog.text


def test_the_module_of_a_run_measures_by_these_domains_and_ratios(manifest, tmp_path):
    sizes = "hidden_size=32 num_layers=1 num_heads=2 num_kv_heads=1 intermediate_size=64".split()
    settings = parts(*(f"model.{size}" for size in sizes), "callbacks.verify=never", f"paths.logs={tmp_path}")
    machine = preflight(settings, Ranks(world_size=1, rank=0, local_rank=0, local_world_size=1))
    stated = changed(manifest, web=99, code=51)
    record = new_record(settings, machine, tmp_path, stated, NullMeter("not read", ""), [])
    module, _ = construct_module(settings, machine, stated, token_budget(settings), record)
    assert dict(zip(module.metrics.places, module.metrics.ratios, strict=True)) == {"code": 1.02, "web": 0.99}
