"""Variants × seeds, trained to equal tokens or to a target: `litespark bench parity`, `to-loss` and `selection`."""
