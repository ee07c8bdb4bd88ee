"""Litespark: train Llama-family models with the fewest joules per token, and verify every number."""

__version__ = "0.1.0"
