"""`litespark bench WHAT`: the measurements, each with arguments of its own."""

from litespark.cli.bench.parts import data, ops, profile, traffic
from litespark.cli.bench.steps import ablation, step
from litespark.cli.bench.tasks import tasks
from litespark.cli.bench.training import lifecycle, parity, selection, to_loss

BENCHES = (ablation, data, lifecycle, ops, parity, profile, selection, step, tasks, to_loss, traffic)
