"""`litespark bench WHAT`: one module a measurement, each with arguments of its own."""

from litespark.cli.bench.loop import LOOP
from litespark.cli.bench.ops import OPS
from litespark.cli.bench.profile import PROFILE
from litespark.cli.bench.step import STEP

BENCHES = {"loop": LOOP, "ops": OPS, "profile": PROFILE, "step": STEP}
