"""Cases that TRL and the tasks compute on the same ids and weights; `trl_oracle` makes the golden values of them."""

from pathlib import Path

import numpy as np

from litespark.data.examples.example import Example
from tests.models.small import small_model

GOLDEN = Path(__file__).with_name("trl.json")
VOCABULARY = 61
EOS = 1
MARGINS = (0.5, 0.0, 1.5, 0.25)
RATINGS = (True, False, True, True)
SIZES = {"hidden_size": 16, "intermediate_size": 24}
# name -> what TRL and the task call alike
DPO = {
    "sigmoid": {}, "sigmoid_norm": {"beta": 2.0}, "hinge": {}, "ipo": {"beta": 0.3}, "nca_pair": {}, "bco_pair": {},
    "sppo_hard": {"beta": 0.05}, "apo_zero": {}, "apo_down": {}, "robust": {"label_smoothing": 0.2},
    "exo_pair": {"label_smoothing": 0.05},
}  # fmt: skip
KTO = {"kto": {"desirable_weight": 1.3, "undesirable_weight": 0.7}, "apo_zero_unpaired": {"beta": 0.4}}
SIMPO = {"beta": 2.0, "gamma": 0.7}
CENTRED = {"center_rewards_coefficient": 0.05}


def policy():
    return small_model(**SIZES)


def reference():
    return small_model(seed=8, **SIZES)


def scorer():
    return small_model(seed=3, num_labels=1, **SIZES)


def _ids(generator, count):
    return [int(number) for number in generator.integers(2, VOCABULARY, count)]


def pairs():
    """(prompt, chosen, rejected) ids; completions end with EOS."""
    generator = np.random.default_rng(11)
    return [
        (_ids(generator, prompt), [*_ids(generator, chosen), EOS], [*_ids(generator, rejected), EOS])
        for prompt, chosen, rejected in ((3, 4, 2), (1, 6, 7), (5, 1, 3), (2, 3, 5))
    ]


def example(*sequences, **about):
    """Of (prompt, completion) ids, the completions trained."""
    ids = tuple(np.array([*prompt, *completion], dtype=np.int32) for prompt, completion in sequences)
    weights = tuple(np.array([0.0] * len(p) + [1.0] * len(c), dtype=np.float32) for p, c in sequences)
    return Example(ids, weights, about)


def pair_examples():
    return [
        example((prompt, chosen), (prompt, rejected), margin=margin)
        for (prompt, chosen, rejected), margin in zip(pairs(), MARGINS, strict=True)
    ]


def rated():
    """(prompt, completion, rating), the completions of the pairs in turn."""
    together = zip(pairs(), RATINGS, strict=True)
    return [(prompt, chosen if good else rejected, good) for (prompt, chosen, rejected), good in together]


def rated_examples():
    """Each with the completion of the one before, the first with that of the last, as TRL turns a batch."""
    of = rated()
    return [
        example((prompt, completion), (prompt, of[number - 1][1]), desirable=float(good))
        for number, (prompt, completion, good) in enumerate(of)
    ]
