"""Builds every part of a run from a config, checks the parts together, and runs them.

The only room that handles Hydra's configs as objects: everything below it takes dataclasses.
"""
