"""Rounding within kernels, for all ops."""
