"""Modules of small kernels whose needs are known, and of some that must be caught. Tests compile them."""
