"""Rotary position embedding, and how its frequencies are stretched to longer contexts."""
