"""Checkpoints: their folder with its seal (`folder`), and the state in it (`state`)."""
