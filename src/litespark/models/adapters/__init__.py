"""Adapters: a few trained parameters on a frozen model, by `peft`."""
