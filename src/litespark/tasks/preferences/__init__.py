"""Preferences: losses over pairs of a chosen and a rejected sequence, and over rated ones."""
