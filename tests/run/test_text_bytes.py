"""Bytes of text beside the bytes that tokens decode to: what bits-per-byte is corrected by."""

from __future__ import annotations

from dataclasses import replace

from litespark.data.manifest import Manifest, SplitCounts
from litespark.launch import ALONE
from litespark.run.build import construct_module
from litespark.run.preflight import preflight
from litespark.tasks.pretrain import text_bytes_per_byte
from tests.data.several_domains import ids_of, write_domains
from tests.run.composed import SMALL, parts


def test_a_tokenizer_that_changes_text_is_corrected_for_domain_by_domain_and_that_is_said(tmp_path, caplog):
    domains = {"web": ids_of(110, 1), "code": ids_of(55, 1001)}  # 100 and 50 bytes
    manifest = Manifest.read(write_domains(tmp_path / "data", {"train": domains, "validation": domains}))
    assert text_bytes_per_byte(manifest) == {"code": 1.0, "web": 1.0}
    assert not caplog.text
    small = [word for word in SMALL if word.startswith("model.") and "vocab" not in word]
    settings = parts(*small, "callbacks.verify=never", f"paths.logs={tmp_path}")
    machine = preflight(settings, ALONE)
    counts = manifest.splits["validation"].domains
    stated = SplitCounts({name: replace(counts[name], text_bytes=size) for name, size in (("web", 99), ("code", 51))})
    stated = replace(manifest, splits={**manifest.splits, "validation": stated})
    module, _ = construct_module(settings, machine, stated)
    assert dict(zip(module.metrics.places, module.metrics.ratios, strict=True)) == {"code": 1.02, "web": 0.99}
    assert "the tokenizer changes text" in caplog.text
