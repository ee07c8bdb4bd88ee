"""Where the loss is masked: the only place that shifts labels, and that says which of them train nothing."""

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = -100
"""The label of an input that trains nothing; every loss leaves it out."""


def masked_labels(ids: NDArray[np.int64], ends: NDArray[np.bool_], real: int) -> NDArray[np.int64]:
    """(B, S+1) ids -> (B, S) labels: the id that follows each input.

    IGNORE_INDEX behind the end of a document (`ends`, (B, S), of the inputs), since what follows cannot be predicted
    from it; so in all padding too, which is ends of documents alone. And in all sequences but the first `real`, which
    only fill the batch.
    """
    labels = ids[:, 1:].copy()
    labels[ends] = IGNORE_INDEX
    labels[real:] = IGNORE_INDEX
    return labels
