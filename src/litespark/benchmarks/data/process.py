"""What one process measures: the product's preparation, the bare tokenizer, and readers of prepared data."""

import functools
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from litespark.data.config import PrepareConfig
from litespark.data.libraries import library
from litespark.data.manifest import Manifest
from litespark.data.modules import build_data_module
from litespark.data.prepare.prepare import prepare
from litespark.data.select.config import SelectionConfig
from litespark.data.text.reader import DocumentReader
from litespark.data.text.sources import corpus
from litespark.data.tokenizer_files import SUFFIX
from litespark.metrics.records.data import LITDATA

# of about a thousand tokens
_BATCH_DOCUMENTS = 256
_SEED = 1
_WARMUP_BATCHES = 16


def use_cores(count: int) -> None:
    """Keep this process and what it starts to the first `count` of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def prepare_corpus(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare; `request` has the `config`, whose root does not hold the folder yet, and `cores`."""
    use_cores(request["cores"])
    began = time.perf_counter()
    folder = prepare(_config(request["config"]), progress=False)
    seconds = time.perf_counter() - began
    assert isinstance(folder, Path), "the root is local, and there is one node"
    tokens = sum(split.tokens for split in Manifest.read(folder).splits.values())
    return {"seconds": seconds, "tokens": tokens, "folder": str(folder)}


def encode(request: dict[str, Any]) -> dict[str, Any]:
    """The bare tokenizer, `tokenizer`, over the texts of the `config`'s source, which are in memory already."""
    import tokenizers

    use_cores(request["cores"])
    if request["tokenizer"].endswith(SUFFIX):
        processor = library("sentencepiece", setting="data.tokenizer").SentencePieceProcessor
        encode_batch = processor(model_file=request["tokenizer"], num_threads=request["cores"]).encode
    else:
        encoder = tokenizers.Tokenizer.from_file(request["tokenizer"])
        encoder.encode_special_tokens = True  # as in preparation: special strings inside a text are text
        # the faster of the two batch calls: it leaves out the places in the text
        encode_batch = functools.partial(encoder.encode_batch_fast, add_special_tokens=False)
    texts = texts_of(_config(request["config"]))
    batches = [texts[start : start + _BATCH_DOCUMENTS] for start in range(0, len(texts), _BATCH_DOCUMENTS)]
    began = time.perf_counter()
    tokens = sum(len(ids) for batch in batches for ids in encode_batch(batch))
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


def texts_of(config: PrepareConfig) -> list[str]:
    """All that preparation writes of a source, in its order."""
    found = corpus(config)
    with tempfile.TemporaryDirectory() as scratch:
        reader = DocumentReader(config, scratch=Path(scratch))
        return [document.text for files in found.sides for document in reader.documents(files)]


def stream(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of a `StreamRun` for each of `cases` (reader, workers, shuffle) in turn, counted for about `seconds`."""
    use_cores(request["cores"])
    answers = []
    for reader, workers, shuffle in request["cases"]:
        config = replace(_config(request["config"]), workers=workers, shuffle=shuffle)
        epochs = _litdata_epochs(config) if reader == LITDATA else iter([_tokens_of_ours(config)])
        answers.append(_timed(epochs, request["seconds"]))
    return answers


def _config(values: dict[str, Any]) -> PrepareConfig:
    return PrepareConfig(**{**values, "selection": SelectionConfig(**values["selection"])})


def _tokens_of_ours(config: PrepareConfig) -> Iterator[int]:
    """Tokens of each batch of the endless stream, documents marked."""
    for batch in build_data_module(config, seed=_SEED).train_dataloader():
        assert batch.cu_seqlens is not None, "the documents are not marked"
        yield batch.token_count


def _litdata_epochs(config: PrepareConfig) -> Iterator[Iterator[int]]:
    """Tokens of each batch of LitData's dataset over the same chunks, epoch after epoch."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    folder = Path(config.source)
    (domain,) = Manifest.read(folder).splits["train"].domains.values()
    chunks, sequences = str(folder / "train" / domain.folder), TokensLoader(block_size=config.seq_len + 1)
    dataset = StreamingDataset(chunks, item_loader=sequences, shuffle=config.shuffle, drop_last=False, seed=_SEED)
    loader: Any = StreamingDataLoader(dataset, batch_size=config.micro_batch_size, num_workers=config.workers)
    while True:
        yield (batch.shape[0] * (batch.shape[1] - 1) for batch in loader)


def _timed(epochs: Iterator[Iterator[int]], seconds: float) -> dict[str, Any]:
    """Tokens and seconds within epochs until there are so many seconds.

    The first batches of each epoch do not count: until then loader workers have not filled their queues.
    """
    began = time.perf_counter()
    first: float | None = None
    counted, spent = 0, 0.0
    for batches in epochs:
        start = None
        for number, tokens in enumerate(batches):
            now = time.perf_counter()
            if first is None:
                first = now - began
            if number == _WARMUP_BATCHES:
                start = now
            elif start is not None:
                counted += tokens
                if spent + now - start >= seconds:
                    break
        if start is None:
            raise ValueError(f"an epoch has {_WARMUP_BATCHES} batches or fewer; give more --megabytes")
        spent += now - start
        if spent >= seconds:
            break
    assert first is not None
    return {"tokens": counted, "seconds": spent, "first_batch_seconds": first}
