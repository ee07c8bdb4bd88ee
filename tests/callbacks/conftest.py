"""Runs of this folder are short: what Lightning says about them is left out."""

import logging
import warnings

import pytest


@pytest.fixture(autouse=True)
def quiet():
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
