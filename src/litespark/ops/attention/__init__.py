"""Causal attention with grouped key/value heads, document boundaries and a key/value cache."""
