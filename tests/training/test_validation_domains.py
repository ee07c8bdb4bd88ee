"""Validation under the real Trainer equals a direct computation, of each domain and of all."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from litespark.data.config import ReadingConfig
from litespark.data.stream.modules import TokenDataModule
from litespark.metrics import names
from litespark.metrics.validation import TokenMetrics
from tests.data.several_domains import ids_of, write_domains
from tests.training.small_runs import LENGTH, VOCABULARY, small_run, training_module

RATIOS = {"code": 0.5, "web": 1.0}


def folder_of(path):
    domains = {name: ids_of(count, first) % VOCABULARY for name, count, first in (("web", 90, 1), ("code", 40, 9))}
    stated = {"vocab_size": VOCABULARY, "token_bytes": [number % 4 for number in range(VOCABULARY)]}
    return write_domains(path, {"train": domains, "validation": domains}, **stated), domains


def sums_of(model, ids):
    """Nats, bytes, hits and labels of one domain, each document of a sequence on its own and without a mask."""
    nats = size = hits = count = 0.0
    for begin in range(0, len(ids) - LENGTH, LENGTH):
        sequence = torch.from_numpy(ids[begin : begin + LENGTH + 1])
        inputs, labels = sequence[:-1], sequence[1:]
        ends = [0, *[int(place) + 1 for place in (inputs == 0).nonzero()], LENGTH]
        for start, end in itertools.pairwise(ends):
            if start == end:
                continue
            logits = model(inputs[start:end][None])[0].double()
            for one, token, label in zip(logits, inputs[start:end], labels[start:end], strict=True):
                if token != 0:  # nothing is predicted behind the end of a document
                    nats += float(one.logsumexp(0) - one[label])
                    size += int(label) % 4
                    hits += int(one.argmax() == label)
                    count += 1
    return np.array([nats, size, hits, count])


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*srun.*")
def test_the_loss_of_each_domain_is_logged_and_together_they_are_the_loss(tmp_path):
    folder, domains = folder_of(tmp_path / "data")
    module = training_module(steps=2, sequences=2)
    module.metrics = TokenMetrics(torch.arange(VOCABULARY) % 4, RATIOS)
    run = small_run(tmp_path, module, validate_every=2)
    data = TokenDataModule(folder, ReadingConfig(seq_len=LENGTH, micro_batch_size=2), seed=1)
    run.trainer.fit(module, datamodule=data)
    run.metrics.finalize("success")
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    model = module.model.eval()
    sums = {name: sums_of(model, ids) for name, ids in domains.items()}
    for name, (nats, size, _, count) in sums.items():
        assert logged[names.of_domain(names.VALIDATION_LOSS, name)] == pytest.approx(nats / count, rel=1e-5)
        expected = nats / math.log(2) / (size * RATIOS[name])
        assert logged[names.of_domain(names.VALIDATION_BITS_PER_BYTE, name)] == pytest.approx(expected, rel=1e-5)
    nats, _, hits, count = sum(sums.values())
    assert logged[names.VALIDATION_LOSS] == pytest.approx(nats / count, rel=1e-5)
    assert logged[names.VALIDATION_PERPLEXITY] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert logged[names.VALIDATION_TOKEN_ACCURACY] == pytest.approx(hits / count)
    text_bytes = sum(size * RATIOS[name] for name, (_, size, *_) in sums.items())
    assert logged[names.VALIDATION_BITS_PER_BYTE] == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
