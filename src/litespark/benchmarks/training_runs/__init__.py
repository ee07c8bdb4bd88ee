"""Runs of `train.py` that a benchmark starts, continues and reads: what `to-loss` and `selection` have in common."""
