"""Causal attention with grouped key/value heads, documents and a key/value cache."""
