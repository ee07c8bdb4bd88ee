"""Random examples and a data module that serves them, for the tests of tasks."""

from functools import partial

import numpy as np

from litespark.data.config import SyntheticConfig
from litespark.data.examples.batch import pack
from litespark.data.examples.example import Example
from litespark.data.stream.modules import SequenceDataModule
from litespark.data.stream.sequences import DomainSequences
from litespark.data.stream.synthetic import synthetic_manifest

VOCABULARY = 61


def sequence(generator, prompt, length, *, weight=1.0):
    """Ids (n,) and weights (n,): a prompt of weight 0, and a completion."""
    ids = generator.integers(2, VOCABULARY, len(prompt) + length).astype(np.int32)
    ids[: len(prompt)] = prompt
    weights = np.full(ids.size, weight, dtype=np.float32)
    weights[: len(prompt)] = 0
    return ids, weights


def random_examples(count, *, sequences=2, weight=1.0, seed=0, **about):
    """Examples of `sequences` completions of one prompt each, of uneven lengths."""
    generator = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        prompt = generator.integers(2, VOCABULARY, generator.integers(1, 6)).astype(np.int32)
        lengths = generator.integers(1, 8, sequences)
        ids, weights = zip(*(sequence(generator, prompt, int(n), weight=weight) for n in lengths), strict=True)
        examples.append(Example(ids, weights, {name: values[number] for name, values in about.items()}))
    return examples


class _Rows:
    """Row numbers in place of ids: what `Examples` makes batches of."""

    def __init__(self, count, seq_len):
        self.count, self.seq_len = count, seq_len

    def sequence(self, number):
        return np.full(self.seq_len + 1, number, dtype=np.int64)


class Examples(SequenceDataModule):
    """Training and validation examples, `per_row` of them in a packed sequence."""

    def __init__(self, training, validation, *, per_row=2, seq_len=48, columns=(), last_ids=False, **reading):
        config = SyntheticConfig(
            seq_len=seq_len, workers=0, vocab_size=VOCABULARY, **({"micro_batch_size": 2} | reading)
        )
        self.rows = {}
        for split, examples in (("train", training), ("validation", validation)):
            numbered = list(enumerate(examples))
            self.rows[split] = [numbered[begin : begin + per_row] for begin in range(0, len(numbered), per_row)]
        splits = [DomainSequences({"": _Rows(len(rows), seq_len)}) for rows in self.rows.values()]
        self._packing = {"fill_id": 0, "columns": columns, "last_ids": last_ids}
        super().__init__(splits, synthetic_manifest(config, 0), config, seed=5, mesh=None)

    def train_dataloader(self):
        return self._of("train", super().train_dataloader())

    def val_dataloader(self):
        return self._of("validation", super().val_dataloader())

    def training_once(self):
        return self._of("train", super().training_once())

    def validation_once(self):
        return self._of("validation", super().validation_once())

    def _of(self, split, loader):
        loader.make = partial(self._packed, self.rows[split])
        return loader

    def _packed(self, rows, ids, real_sequences=None):
        numbers = ids[:, 0].tolist()
        real = len(numbers) if real_sequences is None else real_sequences
        held = [rows[number] if place < real else [] for place, number in enumerate(numbers)]
        return pack(held, self.seq_len, **self._packing)
