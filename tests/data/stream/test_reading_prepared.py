"""From text through `prepare` to batches: packed, from a bucket, over nodes, damaged; and synthetic data."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest
import torch
import zstandard

from litespark.data import modules
from litespark.data.config import SyntheticConfig
from litespark.data.loss_mask import IGNORE_INDEX
from litespark.data.manifest import Manifest
from litespark.data.modules import build_data_module
from litespark.data.prepare.prepare import prepare
from litespark.data.stream.modules import SyntheticDataModule
from litespark.data.tokenizer import Tokenizer
from tests.data.corpus import config
from tests.data.s3_server import fill
from tests.data.slimpajama import DOMAINS, write_slimpajama
from tests.data.streams import S, module


def settings(text, root, **changes):
    return config(text, root, domain_field="meta.redpajama_set_name", vocab_size=400, **changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_slimpajama(tmp_path_factory.mktemp("slimpajama") / "data", chunks=1, shards=2, documents=20)


@pytest.fixture(scope="module")
def folder(text, tmp_path_factory):
    return prepare(settings(text, tmp_path_factory.mktemp("prepared")), progress=False)


@pytest.fixture(scope="module")
def packed(text, tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    return prepare(settings(text, root, packing="best_fit", seq_len=64), progress=False)


def corpus(folder, text):
    """The ids of each training document of the source by domain, in its order, as the tokenizer alone gives them."""
    tokenizer, eos = Tokenizer.load(folder), Manifest.read(folder).eos_id
    found = defaultdict(list)
    for path in sorted((text / "train").rglob("*.zst")):
        for line in zstandard.decompress(path.read_bytes()).splitlines():
            record = json.loads(line)
            ids = [*tokenizer.encode_batch([record["text"]])[0], eos]
            found[record["meta"]["redpajama_set_name"]].append(ids)
    return found


def epoch(data):
    """Inputs and labels of one epoch, sequence by sequence."""
    batches = ((batch.tokens, batch.labels) for batch in data.train_dataloader())
    pairs = (pair for tokens, labels in batches for pair in zip(tokens.tolist(), labels.tolist(), strict=True))
    return list(islice(pairs, data.train_sequences))


def test_an_epoch_of_packed_sequences_predicts_every_token_but_the_first_of_each_document(packed, text):
    data = module(packed, seq_len=64, seed=1)
    documents = [ids for found in corpus(packed, text).values() for ids in found]
    labels = Counter(label for _, sequence in epoch(data) for label in sequence if label != IGNORE_INDEX)
    assert labels == Counter(token for ids in documents for token in ids[1:])
    batches = list(islice(data.train_dataloader(), data.train_sequences // 2))
    assert any(batch.token_count < batch.tokens.numel() for batch in batches)


def test_a_domain_shorter_than_a_sequence_has_one_where_sequences_are_padded(tmp_path, caplog):
    texts = {"long": "a text of some length. " * 40, "short": "a few words"}
    for split in ("train", "validation"):
        (tmp_path / "text" / split).mkdir(parents=True)
        records = [{"text": f"{split} {text}", "domain": name} for name, text in texts.items()]
        (tmp_path / "text" / split / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    settings = config(tmp_path / "text", tmp_path, domain_field="domain", packing="best_fit", seq_len=64)
    data = module(prepare(settings, progress=False), seq_len=64, micro_batch_size=1, seed=1)
    assert not caplog.text
    assert data._training.sizes["short"] == 1
    found = [batch for batch in data.val_dataloader() if batch.domain == "short"]
    assert [batch.token_count for batch in found] == [data.manifest.splits["validation"].domains["short"].tokens]


def batches(place, count, **changes):
    data = module(place, seed=1, **changes)
    return [batch.tokens for batch in islice(data.train_dataloader(), count)]


def test_data_in_a_bucket_gives_the_same_batches_with_a_cold_and_a_warm_cache(folder, s3_bucket, s3_server, tmp_path):
    fill(s3_server, f"{s3_bucket}/data", folder)
    here = batches(folder, 40)
    for workers in (2, 0):  # a cold cache, and a warm one
        there = batches(f"{s3_bucket}/data", 40, cache=str(tmp_path / "cache"), workers=workers)
        assert all(map(torch.equal, here, there))
    data = module(f"{s3_bucket}/data", seed=1, cache=str(tmp_path / "cache"))
    assert Tokenizer.load(data.folder).hash == Tokenizer.load(folder).hash
    assert [batch.domain for batch in data.val_dataloader()] == sorted(batch.domain for batch in data.val_dataloader())


def test_a_config_leads_to_all_of_its_domains_and_reading_settings(text, tmp_path):
    mixture = dict.fromkeys(DOMAINS, 0.0) | {"RedPajamaBook": 1.0}
    data = build_data_module(settings(text, tmp_path, mixture=mixture, validation_sequences=3), seed=5)
    assert (data.seed, data.reading.validation_sequences, data.reading.mixture) == (5, 3, mixture)
    assert data.folder.parent == tmp_path
    books = corpus(data.folder, text)["RedPajamaBook"]
    assert {token for tokens, _ in epoch(data) for token in tokens} <= set(np.concatenate(books).tolist())


def test_a_node_that_has_to_wait_for_others_does_not_train(text, tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "prepare", lambda config, existing: None)
    with pytest.raises(ValueError, match=r"data\.nodes=2: this node has prepared its part .* has ended on all nodes"):
        build_data_module(settings(text, tmp_path, nodes=2), seed=5)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), r"chunk-0-2\.bin is missing; the manifest lists it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"chunk-0-2\.bin has \d+ bytes; the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), r"chunk-0-2\.bin has SHA-256"),
    ],
)
def test_a_damaged_chunk_is_named_at_the_start(prepared, tmp_path, damage, message):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    module(copy, verify_hashes=True)
    damage(copy / "train" / "text" / "chunk-0-2.bin")
    with pytest.raises(ValueError, match=message):
        module(copy, verify_hashes=True)


def test_an_id_outside_the_vocabulary_is_found_on_the_host(prepared, tmp_path):
    copy = shutil.copytree(prepared, tmp_path / "copy")
    path = copy / "train" / "text" / "chunk-0-2.bin"
    path.write_bytes(path.read_bytes()[:-2] + np.uint16(40_000).tobytes())
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"chunk-0-2\.bin: token 99 has id 40000; expected 0 to 299"):
            batches(copy, 200, workers=workers)


def test_what_cannot_be_read_is_refused(prepared, packed, tmp_path):
    with pytest.raises(ValueError, match=r"needs at least 1000001\. Set data\.seq_len to at most"):
        module(prepared, seq_len=10**6)
    with pytest.raises(ValueError, match=r"seq_len=16, but .* for data\.seq_len=64"):
        module(packed)
    with pytest.raises(ValueError, match="seed: got -1"):
        module(prepared, seed=-1)
    with pytest.raises(ValueError, match=r"s3://bucket/data is remote, and data\.cache is not set"):
        module("s3://bucket/data")
    with pytest.raises(ValueError, match="is not a folder; expected one that"):
        module(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no manifest\.json, so its chunks are not a data set"):
        module(prepared / "train")


def synthetic(seed=0, **changes) -> SyntheticDataModule:
    settings = {"vocab_size": 50, "seq_len": S, "micro_batch_size": 4, **changes}
    return build_data_module(SyntheticConfig(**settings), seed=seed)


def test_synthetic_data_has_the_same_interface_and_no_files(monkeypatch):
    data = synthetic(document_length=5)
    batch = next(iter(data.train_dataloader()))
    assert batch.tokens.shape == (4, S)
    assert int(batch.tokens.max()) < data.manifest.vocab_size == len(data.manifest.token_bytes) == 50
    assert int((batch.tokens == 0).sum()) >= 4 * 3
    assert batch.documents is not None
    assert torch.equal(batch.tokens[:, 1:][batch.labels[:, :-1] >= 0], batch.labels[:, :-1][batch.labels[:, :-1] >= 0])
    assert torch.equal(next(iter(synthetic(document_length=5).train_dataloader())).tokens, batch.tokens)
    assert not torch.equal(next(iter(synthetic(seed=1, document_length=5).train_dataloader())).tokens, batch.tokens)
    validation = list(synthetic(synthetic_validation_sequences=6).val_dataloader())
    assert [held.token_count for held in validation] == [4 * S, 2 * S]
    even = next(iter(synthetic(micro_batch_size=500).train_dataloader())).tokens
    assert all(100 < count < 230 for count in torch.bincount(even.flatten(), minlength=50).tolist())
