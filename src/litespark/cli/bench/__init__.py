"""`litespark bench WHAT`: one module a measurement, each with arguments of its own."""

from litespark.cli.bench.data import data
from litespark.cli.bench.ops import ops
from litespark.cli.bench.profile import profile
from litespark.cli.bench.steps import ablation, step
from litespark.cli.bench.training import parity, selection, to_loss

BENCHES = (ablation, data, ops, parity, profile, selection, step, to_loss)
