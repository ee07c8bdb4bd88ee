"""Runs of this folder are as short as those of the training tests, and as quiet."""

from tests.training.conftest import quiet

__all__ = ["quiet"]
