"""Counts what a training step moves, launches and keeps, without running it: the same on every machine."""
