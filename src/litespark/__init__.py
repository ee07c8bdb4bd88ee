"""Litespark: train Llama-family models with the fewest joules per token, and prove every number."""

__version__ = "0.1.0"
