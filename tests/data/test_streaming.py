"""The order of the rows of one domain, and the loaders over resumes; ranks, workers and epochs are in test_domains."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from litespark.data.config import SyntheticConfig
from litespark.data.manifest import Manifest
from litespark.data.stream.modules import SyntheticDataModule, build_data_module
from litespark.data.stream.order import RowOrder
from litespark.data.stream.token_chunks import TokenChunks
from tests.data.corpus import config, documents, write_texts
from tests.data.fitting import fit
from tests.data.streams import S, batches, module
from tests.properties import given, settings, st


def all_tokens(folder, split="train"):
    manifest = Manifest.read(folder)
    domain = manifest.splits[split].domains["text"]
    chunks = TokenChunks(folder / split / domain.folder, domain.chunks, vocab_size=manifest.vocab_size)
    return chunks.read(0, len(chunks))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 70), window=st.integers(1, 80), seed=st.integers(0, 2**31), epoch=st.integers(0, 3))
def test_each_epoch_holds_every_row_once(rows, window, seed, epoch):
    order = RowOrder(rows, seed=seed, shuffle=True, window_rows=window)
    assert sorted(order.row(epoch, index) for index in range(rows)) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), window=st.integers(1, 10), start=st.integers(0, 100), shuffle=st.booleans())
def test_any_position_can_be_asked_for_first(rows, window, start, shuffle):
    whole = RowOrder(rows, seed=1, shuffle=shuffle, window_rows=window).stream(0, 130)
    assert RowOrder(rows, seed=1, shuffle=shuffle, window_rows=window).stream(start, 30).tolist() == (
        whole[start : start + 30].tolist()
    )


def test_the_order_changes_with_epoch_and_seed_and_is_the_same_on_every_machine():
    order = RowOrder(1000, seed=1, shuffle=True)
    first = order.stream(0, 1000)
    assert first.tolist() != order.stream(1000, 1000).tolist()
    assert first.tolist() != RowOrder(1000, seed=2, shuffle=True).stream(0, 1000).tolist()
    assert first[:8].tolist() == PINNED
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1


PINNED = [563, 690, 980, 129, 959, 683, 616, 521]


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 400))
def test_a_resume_gives_the_very_next_batch(prepared, start):
    data = module(prepared, micro_batch_size=1)
    data.load_state_dict(data.state_dict() | {"rows": start})
    order = RowOrder(data.train_rows, seed=3, shuffle=True)
    ids = all_tokens(prepared)
    for row, tokens in zip(order.stream(start, 3), batches(data, 3), strict=True):
        assert tokens[0].tolist() == ids[row * S : row * S + S].tolist()


@pytest.mark.parametrize(
    "name",
    ["manifest_hash", "seq_len", "train_rows", "seed", "shuffle", "mixture", "mixture_temperature"],
)
def test_everything_that_decides_the_order_is_compared(prepared, name):
    data = module(prepared)
    with pytest.raises(ValueError, match=f"data position belongs to {name}=another, this run has {name}="):
        data.load_state_dict({**data.state_dict(), name: "another"})


def test_a_loader_draws_nothing_from_the_generator_of_the_run(prepared):
    before = torch.get_rng_state()
    next(iter(module(prepared).train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*srun.*", "ignore:.*validation_step.*")
@pytest.mark.filterwarnings("error:.*resumable.*")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_lightning_resumes_at_the_next_row_and_again(prepared, tmp_path, accumulate):
    data = module(prepared)
    _, undisturbed = fit(module(prepared), 12, accumulate)
    trainer, first = fit(data, 5, accumulate)
    assert data.state_dict()["rows"] == 5 * 2 * accumulate
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    # more than an epoch later when accumulating, and resumed twice
    trainer, second = fit(module(prepared), 9, accumulate, checkpoint=tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    data = module(prepared)
    _, third = fit(data, 12, accumulate, checkpoint=tmp_path / "b.ckpt")
    assert torch.equal(torch.cat([first, second, third]), undisturbed)
    assert data.consumed_rows == 12 * 2 * accumulate


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*srun.*", "ignore:.*validation_step.*")
def test_a_loader_that_lightning_iterates_anew_goes_on(prepared):
    _, undisturbed = fit(module(prepared), 6)
    _, limited = fit(module(prepared), 6, limit_train_batches=2)
    assert torch.equal(limited, undisturbed)


def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


def test_a_flipped_byte_is_found_by_its_hash(prepared, tmp_path):
    folder = copied(prepared, tmp_path)
    path = folder / "train" / "text" / "chunk-0-2.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"chunk-0-2\.bin has SHA-256"):
        module(folder, verify_hashes=True)
    module(prepared, verify_hashes=True)


def test_an_id_outside_the_vocabulary_is_found_on_the_host(prepared, tmp_path):
    folder = copied(prepared, tmp_path)
    path = folder / "train" / "text" / "chunk-0-2.bin"
    data = bytearray(path.read_bytes())
    data[-2:] = np.uint16(40_000).tobytes()
    path.write_bytes(data)
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"chunk-0-2\.bin: token 99 has id 40000; expected 0 to 299"):
            batches(module(folder, workers=workers), 200)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.unlink(), r"chunk-0-2\.bin is missing; the manifest lists it"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"chunk-0-2\.bin has \d+ bytes; the manifest says"),
    ],
)
def test_a_missing_or_truncated_chunk_is_named_at_the_start(prepared, tmp_path, damage, message):
    folder = copied(prepared, tmp_path)
    damage(folder / "train" / "text" / "chunk-0-2.bin")
    with pytest.raises(ValueError, match=message):
        module(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seq_len": 10**6}, r"needs at least 1000001\. Set data\.seq_len to at most"),
        ({"micro_batch_size": 0}, "data.micro_batch_size: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"workers": None}, "data.workers: got None"),
    ],
)
def test_settings_that_cannot_work_are_refused(prepared, changes, message):
    with pytest.raises(ValueError, match=message):
        module(prepared, **changes)


def test_chunks_without_a_manifest_are_not_a_data_set(prepared, tmp_path):
    folder = copied(prepared, tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"has no manifest\.json, so its chunks are not a data set"):
        module(folder)
    with pytest.raises(ValueError, match="is not a folder; expected one that"):
        module(tmp_path / "nowhere")


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


def test_synthetic_ids_are_even():
    data = synthetic(micro_batch_size=500)
    counts = torch.bincount(next(iter(data.train_dataloader())).tokens.flatten(), minlength=50)
    assert int(counts.min()) > 100
    assert int(counts.max()) < 230


def test_build_data_module_prepares_what_is_missing(tmp_path):
    settings = config(write_texts(tmp_path / "text", documents(20)), tmp_path / "prepared", validation_sequences=2)
    data = build_data_module(settings, seed=7)
    assert (data.seq_len, data.micro_batch_size, data.seed, data.validation_sequences) == (16, 2, 7, 2)
    assert data.folder.parent == tmp_path / "prepared"
    with pytest.raises(ValueError, match="does not exist"):
        build_data_module(config(tmp_path / "nowhere", tmp_path / "prepared"), seed=7)
