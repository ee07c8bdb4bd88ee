"""The operations a Llama spends its time in, each with interchangeable backends (see `litespark.ops.backend`)."""

from litespark.ops.backend import Ops, OpsConfig, resolve

__all__ = ["Ops", "OpsConfig", "resolve"]
