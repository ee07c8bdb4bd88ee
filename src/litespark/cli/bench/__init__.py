"""`litespark bench WHAT`: one module a measurement, each with arguments of its own."""

from litespark.cli.bench.loop import LOOP
from litespark.cli.bench.ops import OPS

BENCHES = {"loop": LOOP, "ops": OPS}
